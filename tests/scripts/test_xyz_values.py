from __future__ import annotations

import json

import pytest

from sdwebui_api.errors import BadRequest
from sdwebui_api.scripting.xyz.table import AXES, axes_for, find_axis
from sdwebui_api.scripting.xyz.values import MAX_VALUES, join_values, read_values, split_values
from tests.scripts.fakes import ROOT


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2, 3", ["1", "2", "3"]),
        ('red, "blue, shiny"', ["red", "blue, shiny"]),
        ("a\nb,c", ["a", "b", "c"]),
        ("", []),
        (' "say ""hi""" ', ['say "hi"']),
    ],
)
def test_splitting(text: str, values: list[str]) -> None:
    assert split_values(text) == values


def test_joining_is_the_opposite() -> None:
    values = ["plain", "with, comma", 'with "quotes"']
    assert split_values(join_values(values)) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("5", [5]),
        ("-1", [-1]),
        ("1-5", [1, 2, 3, 4, 5]),
        (" 1 - 5 (+2) ", [1, 3, 5]),
        ("10-5 (-3)", [10, 7]),
        ("1-10 [5]", [1, 3, 5, 7, 10]),
        ("-3--1", [-3, -2, -1]),
        ("5-1", []),
    ],
)
def test_whole_numbers_and_ranges(text: str, values: list[int]) -> None:
    assert read_values([text], "int", "x") == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.5", [0.5]),
        ("1e-3", [0.001]),
        ("1-3 (+0.5)", [1.0, 1.5, 2.0, 2.5, 3.0]),
        ("0.0-1.0 [6]", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ("1-3", [1.0, 2.0, 3.0]),
    ],
)
def test_fractions_and_ranges(text: str, values: list[float]) -> None:
    assert read_values([text], "float", "x") == pytest.approx(values)


def test_permutations() -> None:
    found = read_values(["a", "b", "c"], "permutations", "x")
    assert len(found) == 6
    assert found[:2] == [("a", "b", "c"), ("a", "c", "b")]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("many", "int"),
        ("1.5", "int"),
        ("1-5 (+0)", "int"),
        ("nan", "float"),
        ("inf", "float"),
        ("1-2 (+0)", "float"),
        ("1-99999999999", "int"),
        ("0-1 (+0.00000001)", "float"),
        ("0-1 [99999999]", "float"),
    ],
)
def test_what_is_no_value(text: str, kind: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_values([text], kind, "script_args.x_values")
    assert caught.value.field == "script_args.x_values"


def test_too_many_permutations_and_values() -> None:
    with pytest.raises(BadRequest):
        read_values(list("abcdefgh"), "permutations", "x")
    with pytest.raises(BadRequest):
        read_values([str(number) for number in range(MAX_VALUES + 1)], "int", "x")


def test_empty_values_are_passed_over_among_numbers() -> None:
    assert read_values(["1", "", " ", "2"], "int", "x") == [1, 2]


@pytest.mark.parametrize("kind", ["txt2img", "img2img"])
def test_axes_are_those_of_a1111_in_its_order(kind: str) -> None:
    rows = json.loads((ROOT / "tests/golden/api/get-script-info.json").read_text())["response"]
    row = next(row for row in rows if row["name"] == "x/y/z plot" and row["is_img2img"] == (kind == "img2img"))
    assert [axis.label for axis in axes_for(kind)] == row["args"][0]["choices"]


def test_labels_are_unique() -> None:
    assert len({axis.label for axis in AXES}) == len(AXES)


def test_finding_axes() -> None:
    assert find_axis(4, "txt2img", "f").label == "Steps"
    assert find_axis(5, "txt2img", "f").label == "Hires steps"
    assert find_axis(5, "img2img", "f").label == "CFG Scale"
    assert find_axis("cfg scale", "txt2img", "f").label == "CFG Scale"
    assert find_axis(None, "txt2img", "f").label == "Nothing"
    for wrong in (-1, 99, "Hires steeps", True):
        with pytest.raises(BadRequest):
            find_axis(wrong, "txt2img", "f")


@pytest.mark.parametrize(
    ("label", "value", "text"),
    [
        ("Seed", 5, "Seed: 5"),
        ("CFG Scale", 0.1 + 0.2, "CFG Scale: 0.3"),
        ("Prompt S/R", "red", "red"),
        ("Prompt order", ("a", "b"), "a, b"),
        ("Checkpoint name", "folder\\model.safetensors", "model.safetensors"),
        ("Nothing", 0, ""),
    ],
)
def test_legends(label: str, value: object, text: str) -> None:
    assert find_axis(label, "txt2img", "f").text(value) == text
