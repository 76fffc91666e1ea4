"""The settings that the page's scripts heed, where they find them: `window.sdwebuiOptions` (`assets/options.js`)."""

from __future__ import annotations

import html
import json
from typing import Any

import gradio as gr

from sdwebui_api.config.paths import Paths
from sdwebui_api.webui.context import PageBuilder

HEEDED = (
    "gallery_height", "js_modal_lightbox", "js_modal_lightbox_initially_zoomed", "keyedit_precision_attention",
    "keyedit_precision_extra", "keyedit_delimiters", "keyedit_delimiters_whitespace", "keyedit_move",
    "notification_audio", "notification_volume", "prevent_screen_sleep_during_generation", "show_progress_in_title",
)  # fmt: skip
SOUND = "notification.mp3"
"""In the data folder, as in A1111's; played when pictures are finished."""
QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}


def build(page: PageBuilder) -> None:
    """Once, inside of the Blocks. Told when the page is opened and when settings were applied."""
    told = gr.HTML("", elem_id="page_options", padding=False)

    def tell(request: gr.Request) -> str:
        services = page.services_for(request)
        values = {name: services.options.snapshot()[name] for name in HEEDED}
        sound = Paths.from_flags(page.services.flags).data_dir / SOUND
        values["sound"] = f"gradio_api/file={sound}" if sound.is_file() else ""
        return f'<span data-options="{html.escape(json.dumps(values))}"></span>'

    assert page.blocks is not None
    page.blocks.load(tell, None, told, **QUIET)
    if page.settings_saved is not None:
        page.settings_saved.success(tell, None, told, **QUIET)
