"""The page's own tabs, in their order. A tab that is not in the list is not on the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.tabs import extensions, extras, img2img, merger, png_info, settings, train, txt2img


@dataclass(frozen=True)
class Tab:
    id: str
    """Its elem_id is `tab_<id>`; `gr.Tabs(selected=id)` shows it."""
    label: str
    """English; what `--always-hide-tabs` names too."""
    build: Callable[[PageBuilder], None]


TABS: tuple[Tab, ...] = (
    Tab("txt2img", "txt2img", txt2img.build),
    Tab("img2img", "img2img", img2img.build),
    Tab("extras", "Extras", extras.build),
    Tab("png_info", "PNG Info", png_info.build),
    Tab("merger", "Checkpoint Merger", merger.build),
    Tab("train", "Train", train.build),
    Tab("settings", "Settings", settings.build),
    Tab("extensions", "Extensions", extensions.build),
)
