"""Progress, interrupt, skip and jobs over a running server whose jobs are held at work."""

from __future__ import annotations

import json
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.server import run_fake_server

BODY = {"prompt": "x", "steps": 20, "width": 64, "height": 64}


@pytest.fixture
def server(tmp_path):
    with run_fake_server(tmp_path) as (url, services):
        services.generator.gate.clear()
        with httpx.Client(base_url=url, timeout=30) as client:
            yield client, services
            services.generator.gate.set()


def post(client, **fields):
    return client.post("/sdapi/v1/txt2img", json=BODY | fields)


def wait_for(condition, seconds: float = 20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.005)


def running(services, count: int = 1):
    return len([job for job in services.runner.live_jobs() if job.state == "running"]) >= count


@pytest.fixture
def pool():
    with ThreadPoolExecutor(220) as pool:
        yield pool


def test_idle_is_exactly_zero(server):
    client, _ = server
    answer = client.get("/sdapi/v1/progress").json()
    assert answer["progress"] == 0 and answer["state"]["job_count"] == 0 and answer["state"]["job_timestamp"] == "0"


def test_progress_with_preview_then_interrupt(server, pool):
    client, services = server
    future = pool.submit(post, client, n_iter=2, force_task_id="task(a)")
    wait_for(lambda: running(services))
    wait_for(lambda: client.get("/sdapi/v1/progress").json()["current_image"])
    answer = client.get("/sdapi/v1/progress").json()
    assert answer["state"]["job"] == "Batch 1 out of 2" and answer["state"]["job_count"] == 2
    assert 0.01 < answer["progress"] < 1
    assert client.get("/sdapi/v1/progress?skip_current_image=true").json()["current_image"] is None
    page = client.post("/internal/progress", json={"id_task": "task(a)", "id_live_preview": -1}).json()
    assert page["active"] and page["live_preview"].startswith("data:image/png;base64,")
    assert client.post("/sdapi/v1/interrupt").json() == {}
    answer = future.result(10)
    assert answer.status_code == 200 and len(answer.json()["images"]) == 1
    idle = client.get("/sdapi/v1/progress").json()
    assert idle["progress"] == 0 and idle["state"]["interrupted"]
    assert client.post("/internal/progress", json={"id_task": "task(a)"}).json()["completed"]


def test_interrupt_while_idle_has_no_effect_on_the_next_job(server):
    client, services = server
    services.generator.gate.set()
    assert client.post("/sdapi/v1/interrupt").json() == {}
    assert client.post("/sdapi/v1/skip").json() is None
    assert len(post(client, n_iter=3).json()["images"]) == 3


def test_cancel_of_a_waiting_job_leaves_the_others(server, pool):
    client, services = server
    futures = []
    for index in range(6):
        futures.append(pool.submit(post, client, force_task_id=f"j{index}"))
        wait_for(lambda index=index: services.runner.get(f"j{index}"))
    assert client.get("/sdapi/v1/jobs/j3").json()["position"] == 2
    assert client.delete("/sdapi/v1/jobs/j3").json()["state"] == "cancelled"
    assert futures[3].result(5).status_code == 499
    services.generator.gate.set()
    assert [future.result(5).status_code for future in futures] == [200, 200, 200, 499, 200, 200]
    assert [job["state"] for job in client.get("/sdapi/v1/jobs").json()].count("done") == 5
    assert client.delete("/sdapi/v1/jobs/nothing").status_code == 404


def test_same_id_twice(server, pool):
    client, services = server
    future = pool.submit(post, client, force_task_id="one")
    wait_for(lambda: running(services))
    answer = post(client, force_task_id="one")
    assert answer.status_code == 422 and answer.json()["detail"][0]["loc"] == ["body", "force_task_id"]
    services.generator.gate.set()
    assert future.result(5).status_code == 200


def test_full_queue(tmp_path, pool):
    with run_fake_server(tmp_path, max_queue=1) as (url, services), httpx.Client(base_url=url, timeout=30) as client:
        services.generator.gate.clear()
        futures = [pool.submit(post, client) for _ in range(2)]
        wait_for(lambda: len(services.runner.live_jobs()) == 2)
        answer = post(client)
        assert answer.status_code == 429 and int(answer.headers["Retry-After"]) >= 1
        services.generator.gate.set()
        assert [future.result(5).status_code for future in futures] == [200, 200]


def test_hang_up_cancels_and_the_id_is_free(server, pool):
    client, services = server
    with pytest.raises(httpx.ReadTimeout):
        client.post("/sdapi/v1/txt2img", json=BODY | {"force_task_id": "gone"}, timeout=2)
    first = services.runner.get("gone")
    future = pool.submit(post, client, force_task_id="gone")  # at once, as clients do that try again
    wait_for(lambda: first.state == "cancelled", 30)
    services.generator.gate.set()
    assert future.result(30).status_code == 200 and services.runner.get("gone") is not first


def test_events(server, pool):
    client, services = server
    future = pool.submit(post, client, force_task_id="e")
    wait_for(lambda: running(services))
    names, last = [], {}
    with client.stream("GET", "/sdapi/v1/jobs/e/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("event: "):
                names.append(line[7:])
            if line.startswith("data: "):
                last = json.loads(line[6:])
            if len(names) == 3:
                services.generator.gate.set()
    assert names[0] == "progress" and names[-1] == "done" and last["state"] == "done"
    assert future.result(5).status_code == 200


def test_draining_refuses_pictures_and_answers_the_rest(server, pool):
    client, services = server
    future = pool.submit(post, client)
    wait_for(lambda: running(services))
    drain = threading.Thread(target=services.runner.drain, args=(10,))
    drain.start()
    wait_for(lambda: services.runner.draining)
    assert post(client).status_code == 503 and client.get("/health/ready").status_code == 503
    assert client.get("/sdapi/v1/progress").json()["progress"] > 0
    services.generator.gate.set()
    assert future.result(5).status_code == 200
    drain.join(5)


def test_control_is_quick_with_200_waiting(server, pool):
    client, services = server
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=client.base_url, timeout=60, limits=limits) as many:
        futures = [pool.submit(post, many) for _ in range(200)]
        wait_for(lambda: len(services.runner.live_jobs()) == 200, 30)
        asked = (("GET", "progress"), ("POST", "interrupt"), ("GET", "jobs"), ("GET", "options"))
        seconds = [
            statistics.median(timed(client, method, f"sdapi/v1/{path}") for _ in range(20)) for method, path in asked
        ]
        nothing = statistics.median(timed(client, "GET", "health/live") for _ in range(20))
        services.generator.gate.set()
        assert {future.result(30).status_code for future in futures} == {200}
    assert max(seconds) < max(0.05, 8 * nothing)  # on a busy machine, by what it needs for no work at all


def timed(client, method: str, path: str) -> float:
    begun = time.perf_counter()
    assert client.request(method, f"/{path}").status_code == 200
    return time.perf_counter() - begun
