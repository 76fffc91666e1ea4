"""GET /metrics of the API's process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from sdwebui_api.api.factory import create_app
from sdwebui_api.errors import OutOfMemory
from tests.support.fakes import fake_services

BODY = {"steps": 2, "width": 8, "height": 8}


def samples(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of the labels' names) → value."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def samples_with(client: httpx.Client, *key: str, count: int) -> dict[tuple[str, ...], float]:
    """Once `key` has reached `count`: what a job leaves is counted after its request has been answered."""
    end = time.monotonic() + 60
    while (found := samples(client)).get(key) != count:
        assert time.monotonic() < end, found.get(key)
        time.sleep(0.01)
    return found


@pytest.fixture
def spending(services: Any) -> Iterator[Any]:
    """A generator that spends some time in each stage."""
    make = services.generator.run

    def run(request: Any, job: Any) -> Any:
        with job.stages.timing("sample"):
            threading.Event().wait(0.02)
        return make(request, job)

    services.generator.run = run
    yield services


def test_jobs_pictures_and_stages(spending, client):
    assert client.post("/sdapi/v1/txt2img", json={**BODY, "batch_size": 2, "n_iter": 2}).status_code == 200
    assert client.post("/sdapi/v1/txt2img", json=BODY).status_code == 200
    found = samples_with(client, "sdwebui_jobs_ended_total", "txt2img", "done", count=2)
    assert found["sdwebui_images_total", "txt2img"] == 5
    assert found["sdwebui_stage_seconds_count", "sample"] == found["sdwebui_stage_seconds_count", "answer"] == 2
    assert 0.04 <= found["sdwebui_stage_seconds_sum", "sample"] <= found["sdwebui_job_seconds_sum", "txt2img"]
    assert found["sdwebui_job_wait_seconds_count", "txt2img"] == 2
    assert found["sdwebui_jobs", "running"] == found["sdwebui_jobs", "queued"] == 0
    assert found["sdwebui_http_requests_total", "http", "POST", "/sdapi/v1/txt2img", "200"] == 2
    assert found["sdwebui_http_request_seconds_count", "http", "/sdapi/v1/txt2img"] == 2


def test_failures_are_counted_apart(services, client):
    services.generator.error = OutOfMemory("no memory")
    assert client.post("/sdapi/v1/txt2img", json=BODY).status_code == 507
    assert client.post("/sdapi/v1/txt2img", json={"steps": "x"}).status_code == 422
    found = samples_with(client, "sdwebui_jobs_ended_total", "txt2img", "failed", count=1)
    assert found["sdwebui_http_requests_total", "http", "POST", "/sdapi/v1/txt2img", "507"] == 1
    assert found["sdwebui_http_requests_total", "http", "POST", "/sdapi/v1/txt2img", "422"] == 1
    assert ("sdwebui_images_total", "txt2img") not in found


def test_jobs_that_wait_and_run(services, client):
    services.generator.gate.clear()
    for id in ("a", "b", "c"):
        services.runner.submit(lambda job: services.generator.gate.wait(60), kind="test", id=id)
    while not any(job.state == "running" for job in services.runner.live_jobs()):
        threading.Event().wait(0.01)
    found = samples(client)
    assert (found["sdwebui_jobs", "running"], found["sdwebui_jobs", "queued"]) == (1, 2)
    services.generator.gate.set()


def test_the_engine(services, client):
    """As `FakeEngine.statistics` says."""
    found = samples(client)
    assert found["sdwebui_step_batch_size_bucket", "1.0"] == 3
    assert found["sdwebui_step_batch_size_bucket", "3.0"] == 3
    assert found["sdwebui_step_batch_size_bucket", "+Inf"] == found["sdwebui_step_batch_size_count",] == 5
    assert found["sdwebui_step_batch_size_sum",] == 11
    assert found["sdwebui_cache_hits_total", "weights"] == 5 and found["sdwebui_cache_misses_total", "weights"] == 1
    assert found["sdwebui_gpu_memory_bytes", "used"] == 10
    assert found["sdwebui_ready",] == 1 and found["process_resident_memory_bytes",] > 0
    services.engine.is_ready = False
    assert samples(client)["sdwebui_ready",] == 0


def test_what_clients_choose_makes_no_labels(client):
    client.get("/made-up-path")
    client.request("MADEUP", "/sdapi/v1/txt2img")
    text = client.get("/metrics").text
    assert "made-up" not in text and "MADEUP" not in text
    assert 'method="other"' in text and 'route="other"' in text


def test_no_series_about_series(client):
    client.get("/sdapi/v1/samplers")
    assert "_created" not in client.get("/metrics").text


def test_the_token_is_asked_for(tmp_path):
    client = TestClient(create_app(fake_services(tmp_path, "--token", "t")))
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer t"}).status_code == 200


def test_two_servers_in_one_process_count_apart(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (TestClient(create_app(fake_services(tmp_path / name))) for name in "ab")
    first.get("/sdapi/v1/samplers")
    key = "sdwebui_http_requests_total", "http", "GET", "/sdapi/v1/samplers", "200"
    assert samples(first)[key] == 1 and key not in samples(second)


@pytest.mark.slow
def test_the_real_engine_measures_its_stages(tmp_path):
    from tests.support.hosts import running_host
    from tests.support.server import run_golden_server

    flags = ("--time-log", "--api-log", "--image-link-allow", "127.0.0.1")
    with running_host() as host, run_golden_server(tmp_path, *flags) as server:
        link = f"http://127.0.0.1:{host.port}/ok.png?signature=secret"
        body = {"prompt": "a secret prompt", "steps": 2, "width": 64, "height": 64}
        linked = {**body, "alwayson_scripts": {"image_link": link}}
        for path, sent in (("txt2img", body), ("txt2img", body), ("img2img", linked)):
            answer = httpx.post(f"{server.url}/sdapi/v1/{path}", json=sent, timeout=120)
            assert answer.status_code == 200, answer.text
        with httpx.Client(base_url=server.url, timeout=60) as client:
            values = samples_with(client, "sdwebui_stage_seconds_count", "finish", count=3)
    for stage in ("load", "text", "sample", "decode", "finish"):
        assert values["sdwebui_stage_seconds_count", stage] == 3, stage
    for stage in ("fetch", "encode"):
        assert values["sdwebui_stage_seconds_count", stage] == 1, stage
    assert values["sdwebui_step_batch_size_count",] >= 3
    assert values["sdwebui_cache_hits_total", "text"] >= 1 and values["sdwebui_cache_hits_total", "weights"] >= 3
    assert values["sdwebui_weights_bytes",] > 1e6
    log = (tmp_path / "server.log").read_text()
    assert "kind=txt2img state=done" in log and "sample=" in log
    assert '"path": "/sdapi/v1/txt2img"' in log and "secret" not in log
