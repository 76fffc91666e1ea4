"""CLIP's tokenizer, and what it makes of typographic characters before."""

from __future__ import annotations

import pytest

from sdwebui_api.engine.text_encoder import Tokenizer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Cat", "a cat"),
        ("a cat\u2019s \u201chat\u201d", 'a cat\'s "hat"'),
        (
            "\u7ea2\u82f9\u679c\uff0c\u7eff\u53f6\u3000\uff08\uff21\uff1a\uff11\uff09",
            "\u7ea2\u82f9\u679c,\u7eff\u53f6 (a:1)",
        ),
        ("\ufb01re \u01c4", "fire d\u017e"),
        ("salt &amp; pepper &#x27;&foo;", "salt & pepper '&foo;"),
        ("a &amp; b\n<i> &amp; c\n&amp;", "a & b\n<i> &amp; c\n&amp;"),
        ("a\u2028b <&amp;", "a\nb <&amp;"),
        ("sch\u00c3\u00b6n", "sch\u00f6n"),
        ("e\u0301\x00\x1b[31m\x93\ufeff\r\n", '\u00e9"\n'),
    ],
)
def test_texts_are_cleaned(text: str, expected: str) -> None:
    tokenizer = Tokenizer()
    assert tokenizer.tokenize(text) == tokenizer.tokenize(expected)
    assert tokenizer.tokenize(text)


def test_a_full_width_comma_is_a_comma() -> None:
    tokenizer = Tokenizer()
    assert tokenizer.tokenize("red\uff0cblue") == tokenizer.tokenize("red, blue")
    assert tokenizer.comma_id in tokenizer.tokenize("red\uff0cblue")
