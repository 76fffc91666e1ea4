"""`parameters` of the answer equals A1111's, for every recorded generation request that needs nothing missing here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

CASES = Path(__file__).parents[1] / "golden" / "cases"
ABSENT = ("script-", "cn-", "inpaint-soft")
"""Networks, scripts and ControlNet come with later issues."""


def generation_cases() -> list[str]:
    names = []
    for folder in sorted(CASES.iterdir()):
        if folder.is_dir() and not folder.name.startswith(ABSENT):
            request = json.loads((folder / "request.json").read_text())
            last = request["steps"][-1] if "steps" in request else request
            if last["path"].endswith(("txt2img", "img2img")):
                names.append(folder.name)
    return names


@pytest.mark.parametrize("name", generation_cases())
def test_parameters(name, client):
    request = json.loads((CASES / name / "request.json").read_text())
    recorded = json.loads((CASES / name / "response.json").read_text())
    calls = request.get("steps") or [request]
    for call in calls:
        answer = client.request(call["method"], call["path"], json=call["body"])
    assert answer.status_code == 200, answer.text[:300]
    body = answer.json()
    assert set(body) == {"images", "parameters", "info"}
    expected, got = recorded["body"]["parameters"], body["parameters"]
    assert set(got) == set(expected)
    for key in expected:
        if key == "scheduler" and name == "infotext-request":
            continue  # A1111 fills in Automatic, which means the same as null
        if key.startswith("hr_") and name == "infotext-request":
            continue
        if not shortened(expected[key]):
            assert got[key] == expected[key], key


def shortened(value) -> bool:
    text = json.dumps(value)
    return "characters" in text or "omitted_string" in text
