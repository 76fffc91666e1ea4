from __future__ import annotations

import pytest

from sdwebui_api.errors import BadRequest
from sdwebui_api.prompting.schedule import parse_schedules, timelines_differ


def schedule(
    prompt: str, steps: int = 10, hires_steps: int | None = None, use_old: bool = False
) -> list[tuple[int, str]]:
    return [(entry.end_at_step, entry.text) for entry in parse_schedules([prompt], steps, hires_steps, use_old)[0]]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", [(10, "")]),
        ("plain", [(10, "plain")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("a [b:3\n]", [(3, "a "), (10, "a b")]),
        ("a [b::3] c", [(3, "a b c"), (10, "a  c")]),
        ("a [b:c:3] d", [(3, "a b d"), (10, "a c d")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a [::3] b", [(3, "a  b"), (10, "a  b")]),
        ("a [:3]", [(3, "a "), (10, "a ")]),
        ("a [1:2:3]", [(3, "a 1"), (10, "a 2")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [b:0.25] c", [(2, "a  c"), (10, "a b c")]),
        ("a [b:1.0]", [(10, "a ")]),
        ("a [b:1.5]", [(10, "a ")]),
        ("a [b:1]", [(1, "a "), (10, "a b")]),
        ("a [b:99]", [(10, "a ")]),
        ("a [b:c:0]", [(10, "a c")]),
        ("a [b:c:-3]", [(10, "a c")]),
        ("a [b:c:+3]", [(3, "a b"), (10, "a c")]),
        ("a [b:c:3e0]", [(3, "a b"), (10, "a c")]),
        ("a [b:c:1e999]", [(10, "a b")]),
        ("a [b:c:-1e999]", [(10, "a c")]),
        ("[a:b:3][c:d:5]", [(3, "ac"), (5, "bc"), (10, "bd")]),
    ],
)
def test_editing(prompt: str, expected: list[tuple[int, str]]) -> None:
    assert schedule(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("[[a:b:3]:c:5]", [(3, "a"), (5, "b"), (10, "c")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("[a:(b:1.2):0.5]", [(5, "a"), (10, "(b:1.2)")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("(a [b:c:3]:1.2)", [(3, "(a b:1.2)"), (10, "(a c:1.2)")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[[a|b]:c:2]", [(1, "a"), (2, "b"), (3, "c"), (4, "c")]),
        ("[[a:b:1]|c]", [(1, "a"), (2, "c"), (3, "b"), (4, "c")]),
    ],
)
def test_nesting(prompt: str, expected: list[tuple[int, str]]) -> None:
    assert schedule(prompt, 4 if "|" in prompt else 10) == expected


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("[a|b]", ["a", "b", "a", "b"]),
        ("[a|b|c]x", ["ax", "bx", "cx", "ax"]),
        ("[fe|]male", ["female", "male", "female", "male"]),
        ("[fe|||]male", ["female", "male", "male", "male"]),
        ("[|x|]", ["", "x", "", ""]),
        ("[a|(b:1.1)]", ["a", "(b:1.1)", "a", "(b:1.1)"]),
        ("[a|[b]]", ["a", "[b]", "a", "[b]"]),
    ],
)
def test_alternation(prompt: str, texts: list[str]) -> None:
    assert schedule(prompt, 4) == list(enumerate(texts, start=1))


@pytest.mark.parametrize(
    "prompt",
    [
        "a [unbalanced",
        "(a",
        "a)",
        "a]",
        "[a]",
        "((a))",
        "a: b",
        "(a:b:c)",
        "[a:b]",
        "[a:b:c]",
        "[a: b:c:4]",
        "[a:b:3 4]",
        "[a:b:0x3]",
        "[a:b:(3)]",
        r"\[a:b:3\]",
        r"[a:b:\3]",
        # `|` has a meaning inside of an alternation only; elsewhere A1111's grammar gives up on the whole prompt.
        "a | b [c:d:3]",
        "a [{b|d{:.5] c",
        "(a|b) [c:d:3]",
        "[a|b:c:3]",
        # So it does on a backslash with nothing to escape.
        "[a:b:3] \\",
        "[a:b:3] \\\nc",
    ],
)
def test_taken_literally(prompt: str) -> None:
    assert schedule(prompt) == [(10, prompt)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("x) [a:b:3] (z", [(3, "x) a (z"), (10, "x) b (z")]),
        ("[a:[b:c:3]", [(3, "[a:b"), (10, "[a:c")]),
        (r"[\[a:b\]:3]", [(3, r"\[a"), (10, r"b\]")]),
        (r"[a\:b:c:3]", [(3, r"a\:b"), (10, "c")]),
        # A1111 reads these two either way, depending on Python's hash seed; we always see the edit.
        ("[a:b:3])", [(3, "a)"), (10, "b)")]),
        ("a [b:c:3]: d", [(3, "a b: d"), (10, "a c: d")]),
    ],
)
def test_among_stray_brackets(prompt: str, expected: list[tuple[int, str]]) -> None:
    assert schedule(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a [b:c:3]", [(5, "a c")]),
        ("a [b:c:10]", [(5, "a c")]),
        ("a [b:c:12]", [(2, "a b"), (5, "a c")]),
        ("a [b:c:99]", [(5, "a b")]),
        ("a [b:c:.5]", [(5, "a c")]),
        ("a [b:c:1.0]", [(5, "a c")]),
        ("a [b:c:1.5]", [(2, "a b"), (5, "a c")]),
        # (1.4 - 1) * 5 is a little less than 2 in floating point, there as here.
        ("a [b:c:1.4]", [(1, "a b"), (5, "a c")]),
        ("a [b:c:2.0]", [(5, "a b")]),
        ("[a|b]", [(1, "a"), (2, "b"), (3, "a"), (4, "b"), (5, "a")]),
        ("a|", [(5, "a|")]),
    ],
)
def test_hires_pass_goes_on_counting(prompt: str, expected: list[tuple[int, str]]) -> None:
    assert schedule(prompt, 10, 5) == expected


@pytest.mark.parametrize(
    ("prompt", "hires_steps", "expected"),
    [
        ("[a:b:0.5]", None, [(5, "a"), (10, "b")]),
        ("[a:b:1.5]", None, [(1, "a"), (10, "b")]),
        ("[a:b:7.9]", None, [(7, "a"), (10, "b")]),
        ("[a:b:-0.5]", None, [(10, "b")]),
        ("[a:b:3]", 20, [(3, "a"), (10, "b")]),
    ],
)
def test_old_timeline(prompt: str, hires_steps: int | None, expected: list[tuple[int, str]]) -> None:
    assert schedule(prompt, 10, hires_steps, True) == expected


def test_timelines_differ() -> None:
    assert not timelines_differ(["[a:b:3] [c:0.5]"], 10)
    assert timelines_differ(["a", "[a:b:1.5]"], 10)
    assert timelines_differ(["[a:b:3]"], 10, 10)


def test_one_schedule_for_each_prompt_in_order() -> None:
    first, second, third = parse_schedules(["[a:b:3]", "c", "[a:b:3]"], 10)
    assert first == third != second


@pytest.mark.parametrize("opening", ["(", "[", "[a:", "[a|"])
def test_absurd_nesting(opening: str) -> None:
    with pytest.raises(BadRequest) as caught:
        schedule(opening * 10_000)
    assert caught.value.field == "prompt"


def test_deep_nesting_that_is_allowed() -> None:
    depth = 150
    assert schedule("[a:" * depth + "x" + ":3]" * depth) == [(3, "a"), (10, "x")]
    assert schedule("(" * depth + "[a:b:3]" + ")" * depth)[0] == (3, "(" * depth + "a" + ")" * depth)


def test_absurd_length() -> None:
    with pytest.raises(BadRequest):
        schedule("a " * 5_000_000)
    with pytest.raises(BadRequest):
        schedule("[a|b]" * 19_000, steps=1_000)


def test_many_brackets_take_linear_time() -> None:
    assert len(schedule("[a:b:3](c)]" * 9_000)) == 2
