"""Requests that run side by side never see each other, and control stays quick while many wait."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.support.server import RunningServer

QUICK = 0.05
"""Seconds at the median for a control endpoint while the queue is full (issue: must show)."""


def generate(server: RunningServer, body: dict[str, Any], path: str = "/sdapi/v1/txt2img") -> requests.Response:
    return requests.post(server.url + path, json=body, timeout=600)


def body(**fields: Any) -> dict[str, Any]:
    return {
        "prompt": "a red apple",
        "seed": 5,
        "steps": 6,
        "width": 128,
        "height": 128,
        "sampler_name": "Euler a",
    } | fields


def jobs(server: RunningServer) -> list[dict[str, Any]]:
    answer = requests.get(f"{server.url}/sdapi/v1/jobs", timeout=60).json()
    return answer["jobs"] if isinstance(answer, dict) else answer


def wait_for(condition: Any, timeout: float = 180) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


MIXED = [
    body(override_settings={"sd_model_checkpoint": "tiny-sd"}),
    body(override_settings={"sd_model_checkpoint": "emoji-mini", "CLIP_stop_at_last_layers": 2}),
    body(override_settings={"sd_model_checkpoint": "emoji-mini-copy", "sd_vae": "tiny-vae.safetensors"}, tiling=True),
    body(prompt="a red apple <lora:tiny-style:1>", override_settings={"sd_model_checkpoint": "tiny-sd"}),
    body(prompt="a red apple <lora:tiny-conv:0.7>", override_settings={"sd_model_checkpoint": "tiny-sd"}),
    body(prompt="a red apple <lora:tiny-style:0.5>", override_settings={"sd_model_checkpoint": "emoji-mini"}),
    body(prompt="a red apple <hypernet:tiny-hyper:1>", override_settings={"sd_model_checkpoint": "tiny-sd"}),
]
"""Requests that differ in checkpoint, VAE, networks and options. No two share UNet weights or a forward pass."""


def test_requests_with_different_models_and_options_return_what_they_return_alone(server: RunningServer) -> None:
    alone = [generate(server, request).json()["images"] for request in MIXED]
    for _ in range(2):
        with ThreadPoolExecutor(len(MIXED)) as pool:
            together = list(pool.map(lambda request: generate(server, request).json()["images"], MIXED))
        assert together == alone
    assert len({images[0] for images in alone}) == len(MIXED)


def test_a_request_leaves_no_setting_behind(server: RunningServer) -> None:
    plain = generate(server, body()).json()["images"]
    generate(server, body(override_settings={"CLIP_stop_at_last_layers": 3, "randn_source": "NV"}))
    assert generate(server, body()).json()["images"] == plain


@pytest.fixture
def fifty_queued(server: RunningServer) -> Any:
    """50 requests under way; their ids are `queued-0` … `queued-49`. Yields the futures."""
    with ThreadPoolExecutor(50) as pool:
        futures: list[Future[requests.Response]] = []
        for index in range(50):
            request = body(seed=index, steps=8, force_task_id=f"queued-{index}")
            futures.append(pool.submit(generate, server, request))
            known = f"queued-{index}"
            wait_for(lambda known=known: any(job["id"] == known for job in jobs(server)))
        yield futures
        for future in futures:
            future.result(timeout=600)


def test_control_is_quick_and_cancelling_one_leaves_the_others(
    server: RunningServer, fifty_queued: list[Future[requests.Response]]
) -> None:
    cancelled = requests.delete(f"{server.url}/sdapi/v1/jobs/queued-47", timeout=60)
    assert cancelled.status_code == 200, cancelled.text

    progress, other, nothing = [], [], []
    for _ in range(30):
        nothing.append(timed(lambda: requests.get(f"{server.url}/health/live", timeout=60)))
        progress.append(
            timed(lambda: requests.get(f"{server.url}/sdapi/v1/progress?skip_current_image=true", timeout=60))
        )
        other.append(timed(lambda: requests.get(f"{server.url}/sdapi/v1/jobs/queued-49", timeout=60)))
    quick = max(QUICK, 4 * statistics.median(nothing))  # on a busy machine, by what it needs for no work at all
    assert statistics.median(progress) < quick
    assert statistics.median(other) < quick

    answers = [future.result(timeout=600) for future in fifty_queued]
    assert answers[47].status_code == 499
    others = [answer for index, answer in enumerate(answers) if index != 47]
    assert [answer.status_code for answer in others] == [200] * 49
    assert answers[10].json()["images"] != answers[11].json()["images"]


def timed(call: Any) -> float:
    begin = time.perf_counter()
    assert call().status_code == 200
    return time.perf_counter() - begin


def test_interrupt_answers_at_once_while_requests_run(server: RunningServer) -> None:
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(generate, server, body(seed=index, steps=60)) for index in range(6)]
        wait_for(lambda: any(job["state"] == "running" for job in jobs(server)))
        seconds = [timed(lambda: requests.post(f"{server.url}/sdapi/v1/interrupt", timeout=60)) for _ in range(15)]
        nothing = [timed(lambda: requests.get(f"{server.url}/health/live", timeout=60)) for _ in range(15)]
        answers = [future.result(timeout=600) for future in futures]
    assert statistics.median(seconds) < max(QUICK, 4 * statistics.median(nothing))
    assert all(answer.status_code in (200, 499) for answer in answers)


def test_interrupt_of_one_job_returns_its_unfinished_picture(server: RunningServer) -> None:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(generate, server, body(steps=150, n_iter=4, force_task_id="to-interrupt"))
        wait_for(lambda: any(job["id"] == "to-interrupt" and job["state"] == "running" for job in jobs(server)))
        time.sleep(0.3)
        requests.post(f"{server.url}/sdapi/v1/interrupt?id=to-interrupt", timeout=60)
        answer = future.result(timeout=300)
    assert answer.status_code == 200
    assert len(answer.json()["images"]) == 1, "the first of four, and none of the others"


def test_skip_ends_the_batch_and_goes_on_with_the_next(server: RunningServer) -> None:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(generate, server, body(steps=60, n_iter=2, force_task_id="to-skip"))
        wait_for(lambda: any(job["id"] == "to-skip" and job["state"] == "running" for job in jobs(server)))
        time.sleep(0.2)
        requests.post(f"{server.url}/sdapi/v1/skip", timeout=60)
        answer = future.result(timeout=300)
    assert len(answer.json()["images"]) == 2


def test_a_client_that_goes_away_cancels_its_job(server: RunningServer) -> None:
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(
            f"{server.url}/sdapi/v1/txt2img", json=body(steps=150, n_iter=4, force_task_id="left"), timeout=(60, 0.8)
        )
    ended = ("done", "failed", "cancelled")
    wait_for(lambda: all(job["state"] in ended for job in jobs(server) if job["id"] == "left"))
    states = [job["state"] for job in jobs(server) if job["id"] == "left"]
    assert states in ([], ["cancelled"])
