"""Replays the 197 odd and wrong requests recorded from A1111.

Where it answered 4xx, so do we, at the same place of the body; where it answered 500 to a client's mistake, 4xx;
where 200, 200. `DIFFERENT` holds what is meant to differ.
"""

from __future__ import annotations

import base64
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "golden" / "api" / "bad-requests.json"
RECORDED = json.loads(GOLDEN.read_text())

DIFFERENT = {
    # spec/decisions.md
    "body is a list": 422,
    "list": 422,
    "unknown sampler": 400,
    "unknown sampler_index, no sampler_name": 400,
    "unknown scheduler": 400,
    "infotext with unknown sampler": 400,
    "override_settings: unknown key": 200,
    # as `save_dir` outside of its roots; A1111: 500 `Request to local resource not allowed`
    "init image local URL": 403,
    # it is built in here
    "without the ControlNet extension": 200,
    # A1111 answers the caption "<error>".
    "model files absent and no internet": 404,
    "override_settings: unknown checkpoint": 404,
    "override_settings: unknown VAE": 404,
    "override_settings: clip skip as numeric string": 200,
    "unknown option": 200,
    "unknown checkpoint": 404,
    "wrong type is stored": 422,
    # 200 for train/*, with the complaint inside `info`
    "arguments missing": 422,
    # a setting that means nothing is refused, not silently replaced
    "override_settings: unknown emphasis name": 422,
    "override_settings: unknown randn_source": 422,
    # null stands for the default (spec/clients.md 1.2)
    "steps null": 200,
    "prompt null": 200,
    "negative_prompt null": 200,
    "cfg_scale null": 200,
    # out of range
    "subseed_strength 2": 422,
    "resize_mode 7": 422,
    "inpainting_fill 9": 422,
    "denoising_strength 2": 422,
    "mask_blur negative": 422,
}


@cache
def picture() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "blue").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def with_pictures(value: Any) -> Any:
    """The recording shortened pictures to `<base64 PNG, 3544 characters>`."""
    if isinstance(value, str):
        shortened = value.startswith("<base64 PNG") or value.endswith(" characters>")
        prefix = "data:image/png;base64," if value.startswith("data:") else "  " if value.startswith(" ") else ""
        return prefix + picture() if shortened else value
    if isinstance(value, dict):
        return {key: with_pictures(item) for key, item in value.items()}
    return [with_pictures(item) for item in value] if isinstance(value, list) else value


def send(client, call: dict[str, Any]):
    headers = dict(call.get("request_headers") or {})
    if call.get("request_raw") is not None:
        headers["Content-Type"] = call["request_content_type"]
        return client.request(call["method"], call["path"], content=call["request_raw"], headers=headers)
    body = with_pictures(call["request"])
    content = {} if body is None else {"json": body}
    return client.request(call["method"], call["path"], headers=headers, **content)


def expected_status(call: dict[str, Any]) -> set[int]:
    if call["note"] in DIFFERENT:
        return {DIFFERENT[call["note"]]}
    if call["status"] == 500:
        return {400, 404, 413, 422}
    return {call["status"]}


@pytest.mark.parametrize("index", range(len(RECORDED)), ids=lambda index: f"{index}-{RECORDED[index]['note']}")
def test_replay(index, client):
    call = RECORDED[index]
    answer = send(client, call)
    assert answer.status_code in expected_status(call), answer.text[:500]
    if answer.status_code >= 400 and call["content_type"] == "application/json" and call["method"] != "HEAD":
        body = answer.json()
        assert set(body) == {"error", "detail", "body", "errors"}
        check_place(call, body["detail"])


def check_place(call: dict[str, Any], detail: Any) -> None:
    recorded = call["response"].get("detail") if isinstance(call["response"], dict) else None
    if call["status"] == 422 and isinstance(recorded, list) and call["note"] not in DIFFERENT:
        places = [problem["loc"] for problem in detail]
        assert all(problem["loc"] in places for problem in recorded)
    if isinstance(detail, list):
        assert all(set(problem) == {"loc", "msg", "type"} for problem in detail)
