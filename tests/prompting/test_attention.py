from __future__ import annotations

import pytest

from sdwebui_api.errors import BadRequest
from sdwebui_api.prompting.attention import parse_attention

TENTH_LESS = 1 / 1.1

CASES = [
    ("", [("", 1.0)]),
    ("normal text", [("normal text", 1.0)]),
    ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
    ("a [faint] word", [("a ", 1.0), ("faint", TENTH_LESS), (" word", 1.0)]),
    ("(unbalanced", [("unbalanced", 1.1)]),
    ("[unbalanced", [("unbalanced", TENTH_LESS)]),
    ("closed)", [("closed)", 1.0)]),
    ("closed]", [("closed]", 1.0)]),
    ("(mixed]", [("mixed]", 1.1)]),
    ("[mixed)", [("mixed)", TENTH_LESS)]),
    (r"\(literal\]", [("(literal]", 1.0)]),
    (r"(literal]\)", [("literal])", 1.1)]),
    (r"a \\ b", [(r"a \ b", 1.0)]),
    (r"a \b", [("a b", 1.0)]),
    ("end\\", [("end", 1.0)]),
    ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
    ("(a:1.5)", [("a", 1.5)]),
    ("(a: 1.5 )", [("a", 1.5)]),
    ("(a :\t1.5)", [("a ", 1.5)]),
    ("(a:-1)", [("a", -1.0)]),
    ("(a:+.5)", [("a", 0.5)]),
    ("(a:2.)", [("a", 2.0)]),
    ("(a:b)", [("a:b", 1.1)]),
    ("(a:1.5e2)", [("a:1.5e2", 1.1)]),
    ("(a:1.5 b)", [("a:1.5 b", 1.1)]),
    ("a:1.5)", [("a:1.5)", 1.0)]),
    ("[a:1.5)", [("a:1.5)", TENTH_LESS)]),
    ("[a:1.5]", [("a:1.5", TENTH_LESS)]),
    ("time 12:30", [("time 12:30", 1.0)]),
    ("(a:0)", [("a", 0.0)]),
    ("((a))", [("a", 1.1 * 1.1)]),
    ("[[a]]", [("a", TENTH_LESS * TENTH_LESS)]),
    ("([a])", [("a", TENTH_LESS * 1.1)]),
    ("(a (b:1.3))", [("a ", 1.1), ("b", 1.3 * 1.1)]),
    ("(a [b:2)]", [("a ", 2.0), ("b", 2.0 * TENTH_LESS)]),
    ("()", [("", 1.0)]),
    (
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
        [
            ("a ", 1.0),
            ("house", 1.3 * 1.1 * 1.1),
            (" ", 1.1),
            ("on", TENTH_LESS * 1.1),
            (" a ", 1.1),
            ("hill", 0.5 * 1.1),
            (", sun, ", 1.1),
            ("sky", 1.1 * 1.1 * 1.1 * 1.1),
            (".", 1.1),
        ],
    ),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_weights(text: str, expected: list[tuple[str, float]]) -> None:
    assert parse_attention(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a BREAK b", [("a", 1.0), ("BREAK", -1.0), ("b", 1.0)]),
        ("BREAK", [("", 1.0), ("BREAK", -1.0), ("", 1.0)]),
        (" a\nBREAK\n  b ", [(" a", 1.0), ("BREAK", -1.0), ("b ", 1.0)]),
        ("a BREAK BREAK b", [("a", 1.0), ("BREAK", -1.0), ("", 1.0), ("BREAK", -1.0), ("b", 1.0)]),
        ("(a) BREAK (b)", [("a", 1.1), ("", 1.0), ("BREAK", -1.0), ("", 1.0), ("b", 1.1)]),
        ("aBREAKb BREAKS break", [("aBREAKb BREAKS break", 1.0)]),
        # Inside of brackets its weight is multiplied, too: it is no separator any more.
        ("(a BREAK b)", [("a", 1.1), ("BREAK", -1.1), ("b", 1.1)]),
    ],
)
def test_break(text: str, expected: list[tuple[str, float]]) -> None:
    assert parse_attention(text) == expected


@pytest.mark.parametrize(
    "text", ["(a:1.2.3)", "(a:.)", "(" * 10_000, "[" * 10_000, "x" * 10_000_000, f"(a:{'9' * 400})"]
)
def test_unusable(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_attention(text)
    assert caught.value.field == "prompt"
    assert len(caught.value.message) < 200


def test_many_closing_brackets_are_text() -> None:
    assert parse_attention(")" * 50_000) == [(")" * 50_000, 1.0)]
