"""What the server says to every client, in the words of the page: its messages are English and hold values."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from sdwebui_api.webui.localization import t
from sdwebui_api.webui.localization.marks import is_marked
from sdwebui_api.webui.localization.texts import message_templates

TEMPLATES = tuple(message_templates())
"""As they are written in the server's code (and pydantic's): the keys of `localization/zh/messages.json`."""

_FIELD = re.compile(r"([\w.\[\]-]{1,200}): (?=\S)")
_FILE = re.compile(r"(.{1,200}?\.(?:safetensors|ckpt|pt|pth|bin|onnx)): (?=\S)")


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(f"(?P<{part}>.+)" if index % 2 else re.escape(part) for index, part in enumerate(parts)))


def spans(templates: Iterable[str]) -> str:
    """HTML for `window.sdwebuiSaid` (`assets/page.js`): what routes answer to a tab's script, in the reader's words."""
    return "".join(f'<span data-said="{html.escape(one)}">{html.escape(t(one))}</span>' for one in templates)


def _literal(template: str) -> int:
    """How much of it is fixed: what says more is looked for first."""
    return len(re.sub(r"\{\w+\}", "", template))


_PATTERNS = [(template, _pattern(template)) for template in sorted(TEMPLATES, key=_literal, reverse=True)]


def said(message: str) -> str:
    """`message` for the page, to be translated on its way out as far as it is known. Not escaped.

    A name of a field or of a model file before it (`seed: …`) stays.
    """
    if is_marked(message):
        return message
    return _behind(_FILE, message) or _known(message) or _behind(_FIELD, message) or message


def _known(message: str) -> str | None:
    for template, pattern in _PATTERNS:
        if found := pattern.fullmatch(message):
            return t(template, **found.groupdict())
    return None


def _behind(name: re.Pattern[str], message: str) -> str | None:
    """What is known behind a name."""
    found = name.match(message)
    if found is None:
        return None
    rest = message[found.end() :]
    spoken = said(rest)
    return None if spoken == rest else found[0] + spoken
