from __future__ import annotations

import pytest

from sdwebui_api.engine.training.schedule import parse_schedule
from sdwebui_api.errors import BadRequest


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.005", {0: 0.005, 10**6: 0.005}),
        ("5e-3:100, 1e-3:1000", {0: 0.005, 99: 0.005, 100: 0.001, 999: 0.001, 1000: None}),
        ("0.005:2,1e-5", {1: 0.005, 2: 1e-5, 10**6: 1e-5}),
        ("0.005:2, 1e-5:-1", {1: 0.005, 2: 1e-5, 10**6: 1e-5}),
        (" 0.1 , ", {0: 0.1}),
        ("0.1:0, 0.2", {0: 0.2}),
    ],
)
def test_values(text, values):
    schedule = parse_schedule(text, "learn_rate")
    assert {step: schedule.at(step) for step in values} == values


@pytest.mark.parametrize(
    "text", ["", ",", "fast", "1e-3:x", "1e-3:5.5", "nan", "inf:3", "-1", "1:-2", "0.1, 0.2", "0.1:100, 0.2:50"]
)
def test_what_is_no_schedule(text):
    with pytest.raises(BadRequest) as caught:
        parse_schedule(text, "learn_rate")
    assert caught.value.field == "learn_rate"
