"""Several prompts at once: `a cat AND a dog :0.6`.

Results equal those of A1111's `prompt_parser.get_multicond_prompt_list`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r":\s*([-+]?(?:\d+\.?|\d*\.\d+))\Z")


@dataclass(frozen=True)
class Subprompt:
    """One of the prompts that are guided to together, and how strongly."""

    text: str
    weight: float = 1.0


def parse_composition(prompt: str) -> list[Subprompt]:
    """The parts of `prompt` between `AND`s, at least one; white space at their ends is cut, at their starts kept."""
    return [_subprompt(part) for part in _AND.split(prompt)]


def _subprompt(part: str) -> Subprompt:
    text = part.rstrip()
    match = _WEIGHT.search(text)
    return Subprompt(text[: match.start()].rstrip(), float(match[1])) if match else Subprompt(text)
