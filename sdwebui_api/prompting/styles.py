"""Styles: prompt texts kept under a name, put around (`{prompt}`) or after what the request says.

As A1111's `styles.apply_styles_to_prompt`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class StyleTexts(Protocol):
    """What is used of a style (a row of styles.csv)."""

    @property
    def name(self) -> str: ...

    @property
    def prompt(self) -> str: ...

    @property
    def negative_prompt(self) -> str: ...


def merge_style(text: str, style_text: str) -> str:
    """`style_text` with `{prompt}` replaced by `text`; without one, both joined by a comma, blank ones left out."""
    if "{prompt}" in style_text:
        return style_text.replace("{prompt}", text)
    return ", ".join(part for part in (text.strip(), style_text.strip()) if part)


def apply_styles(
    prompt: str, negative_prompt: str, names: Iterable[str], styles: Iterable[StyleTexts]
) -> tuple[str, str]:
    """Prompt and negative prompt after the styles `names`, in that order.

    An unknown name adds nothing, but the prompts lose white space at their ends as with an empty style.
    """
    known = {style.name: style for style in styles}
    for name in names:
        style = known.get(name)
        prompt = merge_style(prompt, style.prompt if style else "")
        negative_prompt = merge_style(negative_prompt, style.negative_prompt if style else "")
    return prompt, negative_prompt
