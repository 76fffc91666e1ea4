"""`modules.cache`: what extensions remember about files, while the server runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from sdwebui_api.scripting.compat.world import world


def cache(subsection: str) -> dict[str, Any]:
    sections: dict[str, dict[str, Any]] = world().__dict__.setdefault("file_caches", {})
    return sections.setdefault(subsection, {})


def cached_data_for_file(subsection: str, title: str, filename: str, func: Callable[[], Any]) -> Any:
    """`func()`, unless the file is as it was when that was last called for `title`."""
    stamp = os.path.getmtime(filename)
    found = cache(subsection).get(title)
    if found is None or found["mtime"] != stamp:
        value = func()
        if value is None:
            return None
        found = cache(subsection)[title] = {"mtime": stamp, "value": value}
    return found["value"]


def dump_cache() -> None:
    return
