"""`modules.img2img`: the page's functions; extensions that wrap them can be loaded, calling them is not offered."""

from __future__ import annotations

from typing import Any

from sdwebui_api.scripting.compat.modules.processing import process_images
from sdwebui_api.scripting.compat.world import NotOffered

__all__ = ["img2img", "process_batch", "process_images"]


def img2img(id_task: str, *args: Any) -> Any:
    raise NotOffered("modules.img2img.img2img takes the page's widgets; make a p and call process_images(p)")


def process_batch(*args: Any, **kwargs: Any) -> Any:
    raise NotOffered("modules.img2img.process_batch belongs to the page")
