from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdwebui_api.errors import BadRequest
from sdwebui_api.sampling.names import find_sampler, find_schedule, resolve_names
from sdwebui_api.sampling.samplers import SAMPLERS
from sdwebui_api.sampling.schedules import AUTOMATIC, MODEL_SIGMAS

GOLDEN = Path(__file__).parents[1] / "golden" / "api"


def names(sampler: str | None, schedule: str | None = None, *, lenient: bool = False) -> tuple[str, str]:
    row, chosen = resolve_names(sampler, schedule, lenient=lenient)
    return row.name, chosen.label


def test_rows_are_those_of_a1111() -> None:
    assert [row.row() for row in SAMPLERS] == json.loads((GOLDEN / "get-samplers.json").read_text())["response"]


@pytest.mark.parametrize(
    ("sampler", "schedule", "expected"),
    [
        ("Euler a", None, ("Euler a", "Automatic")),
        ("euler A", "KARRAS", ("Euler a", "Karras")),
        ("k_euler_a", None, ("Euler a", "Automatic")),
        ("k_dpmpp_2m_ka", None, ("DPM++ 2M", "Automatic")),
        ("DPM++ 2M Karras", None, ("DPM++ 2M", "Automatic")),
        ("DPM++ 2M SDE Karras", "", ("DPM++ 2M SDE", "Karras")),
        ("dpm++ 2m sde heun exponential", None, ("DPM++ 2M SDE Heun", "Automatic")),
        ("LMS Karras", None, ("LMS", "Karras")),
        ("LMS Karras", "Exponential", ("LMS", "Exponential")),
        ("DPM++ 2M Karras", "Automatic", ("DPM++ 2M", "Automatic")),
        ("Euler", "sgmuniform", ("Euler", "SGM Uniform")),
        ("Euler", "align_your_steps", ("Euler", "Align Your Steps")),
        ("DDIM", "DDIM", ("DDIM", "DDIM")),
    ],
)
def test_names(sampler: str, schedule: str | None, expected: tuple[str, str]) -> None:
    assert names(sampler, schedule) == expected


@pytest.mark.parametrize("text", ["no such sampler", "", None, "Karras", "Euler Nope"])
def test_unknown_sampler(text: str | None) -> None:
    with pytest.raises(BadRequest, match="Sampler not found") as error:
        find_sampler(text)
    assert error.value.status == 400 and error.value.field == "sampler_name"
    assert "Euler a" in error.value.choices


def test_unknown_schedule() -> None:
    with pytest.raises(BadRequest) as error:
        find_schedule("no such", field="hr_scheduler")
    assert error.value.status == 400 and error.value.field == "hr_scheduler" and "Karras" in error.value.choices


@pytest.mark.parametrize("text", ["no such sampler", "euler a", "k_euler_a"])
def test_lenient_is_a1111(text: str) -> None:
    assert names(text, "no such", lenient=True) == ("DPM++ 2M", "Automatic")
    assert names("Euler a Karras", lenient=True) == ("Euler a", "Karras")


def test_the_name_automatic_is_automatic_but_for_the_hires_pass() -> None:
    """A1111 corrects `scheduler` before it looks at it (an unknown one is recorded as Automatic), not `hr_scheduler`;
    webuiapi always sends `"scheduler": "automatic"`."""
    assert resolve_names("DPM++ 2M", "automatic")[1] is AUTOMATIC
    assert resolve_names("DPM++ 2M", "automatic", lenient=True)[1] is AUTOMATIC
    _, second = resolve_names("DPM++ 2M", "automatic", hires_pass=True)
    assert second is MODEL_SIGMAS
    assert find_schedule(second.label) is MODEL_SIGMAS
    assert resolve_names("DPM++ 2M", "Automatic", hires_pass=True)[1] is AUTOMATIC
