"""Weights on parts of a prompt: `(more)`, `[less]`, `(this much:1.3)`, and the chunk separator `BREAK`.

Results equal those of A1111's `prompt_parser.parse_prompt_attention`, bit for bit: weights of nested brackets are
multiplied in the order in which the brackets close, unclosed ones last, because float products depend on it.
"""

from __future__ import annotations

import math
import re
from itertools import groupby

from sdwebui_api.errors import BadRequest
from sdwebui_api.prompting.limits import check_nesting, check_prompt

BREAK = ("BREAK", -1.0)
"""The fragment that ends a chunk. Inside of brackets its weight is multiplied too, and it becomes a plain word."""

ROUND_WEIGHT = 1.1
SQUARE_WEIGHT = 1 / 1.1

_TOKEN = re.compile(
    r"""
    \\ (?P<escaped> [()\[\]\\]? )
  | (?P<open> [(\[] )
  | : \s* (?P<weight> [+-]?[.\d]+ ) \s* \)
  | (?P<close> [)\]] )
  | [^\\()\[\]:]+
  | :
    """,
    re.VERBOSE,
)
_BREAK_WORD = re.compile(r"\bBREAK\b")


class _Fragments:
    """Fragments read so far, and which brackets are open before which of them."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.weights: list[float] = []
        self.open: dict[str, list[int]] = {"(": [], "[": []}

    def add(self, text: str, weight: float = 1.0) -> None:
        self.texts.append(text)
        self.weights.append(weight)

    def add_words(self, text: str) -> None:
        """Plain text; a `BREAK` in it loses the white space around it."""
        parts = _BREAK_WORD.split(text)
        for index, part in enumerate(parts):
            if index > 0:
                self.add(*BREAK)
                part = part.lstrip()
            self.add(part.rstrip() if index < len(parts) - 1 else part)

    def start(self, bracket: str) -> None:
        self.open[bracket].append(len(self.texts))
        check_nesting(len(self.open[bracket]))

    def multiply(self, start: int, factor: float) -> None:
        for index in range(start, len(self.weights)):
            self.weights[index] *= factor

    def finish(self) -> None:
        """What is still open counts as closed at the end, outermost first, round before square."""
        for start in self.open["("]:
            self.multiply(start, ROUND_WEIGHT)
        for start in self.open["["]:
            self.multiply(start, SQUARE_WEIGHT)


def parse_attention(text: str) -> list[tuple[str, float]]:
    """Split `text` into (fragment, weight) with neighbours of equal weight joined; at least one fragment.

    `BREAK` outside of brackets is a fragment of its own, `("BREAK", -1.0)`. Raises BadRequest(field="prompt") for a
    weight that is no finite number and for absurd length or nesting.
    """
    check_prompt(text)
    fragments = _Fragments()
    for match in _TOKEN.finditer(text):
        _take(fragments, match)
    fragments.finish()
    return _joined(fragments)


def _take(fragments: _Fragments, match: re.Match[str]) -> None:
    rounds, squares = fragments.open["("], fragments.open["["]
    if match["escaped"] is not None:
        fragments.add(match["escaped"])
    elif match["open"]:
        fragments.start(match["open"])
    elif match["weight"] and rounds:
        fragments.multiply(rounds.pop(), _number(match["weight"]))
    elif match["close"] == ")" and rounds:
        fragments.multiply(rounds.pop(), ROUND_WEIGHT)
    elif match["close"] == "]" and squares:
        fragments.multiply(squares.pop(), SQUARE_WEIGHT)
    else:
        fragments.add_words(match[0])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadRequest(f"The weight {text[:40]!r} in the prompt is not a number", field="prompt") from None


def _joined(fragments: _Fragments) -> list[tuple[str, float]]:
    joined = [
        ("".join(text for text, _ in run), weight)
        for weight, run in groupby(zip(fragments.texts, fragments.weights, strict=True), key=lambda pair: pair[1])
    ]
    if not all(math.isfinite(weight) for _, weight in joined):
        raise BadRequest("A weight in the prompt is too large", field="prompt")
    return joined or [("", 1.0)]
