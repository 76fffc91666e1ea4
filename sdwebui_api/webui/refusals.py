"""How the page says no. Not in handlers with `queue=False`: gradio shows nothing of their errors."""

from __future__ import annotations

import html

import gradio as gr

from sdwebui_api.errors import SdWebUIError
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.localization.marks import is_marked
from sdwebui_api.webui.server_messages import said


def refusal(message: str) -> gr.Error:
    """Shown by the page; it would take markup in `message` for its own. A message of the server's is translated."""
    return gr.Error(html.escape(said(message)), title=t("Not possible"), print_exception=False)


PICTURES = {"init_images": t("Initial picture"), "mask": t("Mask")}
"""Fields of a request, as the page calls them."""


def named(error: SdWebUIError) -> str:
    """The message, with the field it is about where it does not say so itself."""
    name, message = getattr(error, "field", None), said(error.message)
    if not name or name in message or is_marked(error.message):
        return message
    return f"{PICTURES.get(name.partition('[')[0], name)}: {message}"
