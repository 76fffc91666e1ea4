"""`modules.txt2img`: the page's function; extensions that wrap it can be loaded, calling it is not offered."""

from __future__ import annotations

from typing import Any

from sdwebui_api.scripting.compat.modules.processing import process_images
from sdwebui_api.scripting.compat.world import NotOffered

__all__ = ["process_images", "txt2img"]


def txt2img(id_task: str, *args: Any) -> Any:
    raise NotOffered("modules.txt2img.txt2img takes the page's widgets; make a p and call process_images(p)")
