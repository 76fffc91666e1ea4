"""Every recorded request of A1111 1.10.1 whose needs are built, replayed through HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from tests.parity.cases import Case, cases
from tests.parity.compare import picture, psnr, without_version
from tests.support.server import RunningServer

BUILT: tuple[str, ...] = ("lora", "hypernetwork", "script", "controlnet", "controlnet routes")
"""The needs (`Case.needs`) that this server has."""

LENIENT = {"name-alias-k-euler-a"}
"""A1111 answered these with another sampler than they name. We do so only with `--lenient`."""

VOLATILE = {"job_timestamp", "version", "infotexts"}
OURS = {"job_id", "warnings"}
"""Keys that this server adds to `info` (spec: only there)."""


def send(server: RunningServer, request: dict[str, Any]) -> requests.Response:
    return requests.request(request["method"], server.url + request["path"], json=request["body"], timeout=300)


@pytest.mark.parametrize("case", cases(*BUILT), ids=lambda case: case.name)
def test_recorded_case(case: Case, results: dict[str, float], request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("lenient_server" if case.name in LENIENT else "golden_server")
    try:
        for step in case.requests:
            response = send(server, step)
    finally:
        for step in case.cleanup:
            send(server, step)
    assert response.status_code == case.answer["status"], response.text[:2000]
    body = response.json()
    if case.answer.get("info_parsed"):
        check_info(json.loads(body["info"]), case.info)
    check_body(body, case.answer["body"])
    check_pictures(body, case, results)


def check_info(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert [without_version(text) for text in ours["infotexts"]] == [without_version(t) for t in theirs["infotexts"]]
    skip = VOLATILE | OURS
    assert {k: v for k, v in ours.items() if k not in skip} == {k: v for k, v in theirs.items() if k not in skip}


def check_body(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Everything in the answer but pictures, `info`, and the long strings that the recording shortened."""
    assert ours.keys() == theirs.keys()
    for key in ours.keys() - {"images", "image", "info", "parameters"}:
        assert ours[key] == theirs[key], key
    if isinstance(theirs.get("parameters"), dict) and "prompt" in theirs["parameters"]:
        for name, value in theirs["parameters"].items():
            if "omitted_string_length" not in str(value):
                assert ours["parameters"][name] == value, name
    elif "parameters" in theirs:
        assert ours["parameters"] == theirs["parameters"]


def check_pictures(body: dict[str, Any], case: Case, results: dict[str, float]) -> None:
    pictures = body.get("images", [body["image"]] if body.get("image") else [])
    assert len(pictures) == case.image_count
    if not pictures:
        return
    for index, text in enumerate(pictures):
        ours, theirs = picture(text).info.get("parameters"), case.image(index).info.get("parameters")
        assert without_version(ours or "") == without_version(theirs or ""), index
    values = [psnr(picture(text), case.image(index)) for index, text in enumerate(pictures)]
    results[case.name] = min(values)
    assert min(values) >= case.floor, f"{case.name}: {[round(value, 1) for value in values]} dB"
