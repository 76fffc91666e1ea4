"""Shipped scripts through HTTP: progress, stopping, and arguments that no page would send."""

from __future__ import annotations

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.parity.cases import Case
from tests.support.server import RunningServer

STEPS, SEED, CHECKPOINT = 4, 1, 11
ODD: list[Any] = [None, True, 0, -1, 1, 2.5, 10**12, "", "x", "1-5", [], ["left"], ["x", 3], {}, {"a": 1}, "fill"]


def send(server: RunningServer, kind: str = "txt2img", **fields: Any) -> requests.Response:
    body = {"prompt": "a red apple", "seed": 5, "steps": 2, "width": 64, "height": 64, "sampler_name": "Euler"}
    if kind == "img2img":
        body |= {"init_images": Case("script-loopback").requests[0]["body"]["init_images"]}
    return requests.post(f"{server.url}/sdapi/v1/{kind}", json=body | fields, timeout=300)


def plot(*args: Any) -> dict[str, Any]:
    return {"script_name": "X/Y/Z plot", "script_args": list(args)}


def state(server: RunningServer) -> dict[str, Any]:
    answer = requests.get(f"{server.url}/sdapi/v1/progress?skip_current_image=true", timeout=60).json()
    found: dict[str, Any] = answer["state"]
    return found


def test_a_plot_counts_its_pictures_and_stops_when_told(server: RunningServer) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(send, server, steps=30, width=128, height=128, **plot(SEED, "1-200"))
        deadline = time.monotonic() + 180
        while state(server)["job_count"] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert state(server)["job"].endswith(" out of 200")
        requests.post(f"{server.url}/sdapi/v1/interrupt", timeout=60)
        answer = running.result(timeout=300)
    assert answer.status_code == 200
    assert len(answer.json()["images"]) == 1
    assert state(server)["job_count"] == 0


def test_checkpoints_side_by_side_equal_those_alone(server: RunningServer) -> None:
    names = ["tiny-sd", "emoji-mini"]
    together = send(server, **plot(CHECKPOINT, ",".join(names), [], 0, "", [], 0, "", [], False, True)).json()
    alone = [send(server, override_settings={"sd_model_checkpoint": name}).json()["images"][0] for name in names]
    assert [_pixels(text) for text in together["images"][1:]] == [_pixels(text) for text in alone]
    assert len(json.loads(together["info"])["infotexts"]) == 3


def _pixels(text: str) -> bytes:
    from tests.parity.compare import picture

    return picture(text).tobytes()


@pytest.mark.parametrize("kind", ["txt2img", "img2img"])
def test_odd_arguments_are_no_error_of_the_server(kind: str, server: RunningServer) -> None:
    rows = requests.get(f"{server.url}/sdapi/v1/script-info", timeout=60).json()
    offered = [(row["name"], row["is_alwayson"]) for row in rows if row["is_img2img"] == (kind == "img2img")]
    mask = Case("inpaint-soft").requests[0]["body"]["mask"] if kind == "img2img" else None
    rng = random.Random(1)
    for title, always_on in offered:
        for _ in range(3):
            args = [rng.choice(ODD) for _ in range(rng.randint(0, 19))]
            fields: dict[str, Any] = {"script_name": title, "script_args": args}
            if always_on:
                fields = {"alwayson_scripts": {title: {"args": args}}}
            if mask:
                fields["mask"] = mask
            answer = send(server, kind, steps=1, **fields)
            assert answer.status_code < 500, (title, args, answer.text[:500])
