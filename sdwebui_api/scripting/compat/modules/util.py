"""`modules.util`."""

from __future__ import annotations

import re
from typing import Any

from sdwebui_api.scripting.compat.modules.shared import html, html_path, listfiles, walk_files

__all__ = ["html", "html_path", "listfiles", "walk_files"]


def natural_sort_key(s: str, regex: Any = re.compile("([0-9]+)")) -> list[Any]:  # A1111's signature
    return [int(text) if text.isdigit() else text.lower() for text in regex.split(s)]


def truncate_path(target_path: str, base_path: str = "") -> str:
    return target_path.removeprefix(base_path).lstrip("/")
