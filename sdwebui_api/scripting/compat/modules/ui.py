"""`modules.ui`: what extensions take from the page."""

from __future__ import annotations

from typing import Any

from sdwebui_api.scripting.compat.headless_gradio import _update as gr_update
from sdwebui_api.scripting.compat.modules.call_queue import wrap_gradio_call, wrap_gradio_gpu_call, wrap_queued_call
from sdwebui_api.scripting.compat.modules.ui_common import create_refresh_button, plaintext_to_html
from sdwebui_api.scripting.compat.modules.ui_components import FormRow, ToolButton

__all__ = [
    "FormRow",
    "ToolButton",
    "create_refresh_button",
    "plaintext_to_html",
    "wrap_gradio_call",
    "wrap_gradio_gpu_call",
    "wrap_queued_call",
]

txt2img_paste_fields: list[Any] = []
img2img_paste_fields: list[Any] = []
paste_symbol, refresh_symbol, save_style_symbol, apply_style_symbol = "↙️", "🔄", "💾", "📋"
random_symbol, reuse_symbol, clear_prompt_symbol, switch_values_symbol = "🎲️", "♻️", "🗑️", "⇅"


def gr_show(visible: bool = True) -> dict[str, Any]:
    return gr_update(visible=visible)
