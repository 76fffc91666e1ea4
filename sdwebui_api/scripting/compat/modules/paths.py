"""`modules.paths`: folders, and the third-party code that A1111 keeps beside itself and this server does not."""

from __future__ import annotations

from typing import Any

from sdwebui_api.scripting.compat.modules import paths_internal

paths: dict[str, str] = {}
sd_path = ""


class Prioritize:
    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_exception: object) -> None:
        return None


def __getattr__(name: str) -> Any:
    return getattr(paths_internal, name)
