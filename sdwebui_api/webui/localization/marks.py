"""Texts that are not translated yet: marked where they are written, found again in what is sent."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

# Characters for private use: no keyboard types them, JSON and HTML leave them alone.
_OPEN, _CLOSE, _VALUES = "\ue900", "\ue901", "\ue902"

_PLAIN = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")
MARKS = (_OPEN.encode(), rb"\ue900")
"""What a marked text begins with: as UTF-8, as JSON in ASCII."""
_ESCAPED_MARK = re.compile(r"(?<!\\)((?:\\\\)*)\\ue90([012])")
"""In JSON; behind another backslash it is what somebody wrote."""

Translate = Callable[[str], str]
"""English text → the reader's."""


def t(text: str, **values: Any) -> str:
    """`text` for the page, in the reader's language when it is sent.

    values: what stands for `{name}` in the text, in any language (`t("{count} jobs ahead", count=3)`).
    """
    written = _VALUES + json.dumps(values, ensure_ascii=False, default=str) if values else ""
    return f"{_OPEN}{text}{written}{_CLOSE}"


def is_marked(text: str) -> bool:
    return _OPEN in text or r"\ue900" in text


def resolve(text: str, translate: Translate) -> str:
    """`text` with every marked part translated."""
    return _PLAIN.sub(lambda found: _spoken(found.group(1), translate), text)


def resolve_json(text: str, translate: Translate) -> str:
    """The same for a text that is JSON, or HTML with JSON in a script: marked parts lie inside of its strings."""
    text = _ESCAPED_MARK.sub(lambda found: found[1] + (_OPEN, _CLOSE, _VALUES)[int(found[2])], text)

    def replace(found: re.Match[str]) -> str:
        try:
            content = json.loads(f'"{found.group(1)}"', strict=False)
        except ValueError:  # it stands outside of the JSON
            return _spoken(found.group(1), translate)
        return _for_script(json.dumps(_spoken(content, translate), ensure_ascii=False)[1:-1])

    return _PLAIN.sub(replace, text)


def _for_script(text: str) -> str:
    for character in "<>&'":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _spoken(content: str, translate: Translate) -> str:
    """What stands for the content of a mark. Where the mark has been escaped for HTML, so is its translation."""
    plain = html.unescape(content)
    if plain != content:
        return html.escape(_spoken(plain, translate))
    text, _, written = content.partition(_VALUES)
    spoken = translate(text)
    for name, value in _values(written).items():
        spoken = spoken.replace(f"{{{name}}}", str(value))
    return spoken


def _values(written: str) -> Mapping[str, Any]:
    """None where users' own text happens to hold the marks."""
    try:
        found = json.loads(written) if written else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
