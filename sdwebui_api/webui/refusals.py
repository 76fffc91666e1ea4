"""How the page says no."""

from __future__ import annotations

import html

import gradio as gr

from sdwebui_api.webui.localization import t


def refusal(message: str) -> gr.Error:
    """Shown by the page; it would take markup in `message` for its own."""
    return gr.Error(html.escape(message), title=t("Not possible"), print_exception=False)
