"""Pictures from a prompt."""

from __future__ import annotations

import gradio as gr

from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.localization import t


def build(page: PageBuilder) -> None:
    page.add(gr.Textbox(label=t("Prompt"), elem_id="txt2img_prompt"), infotext=("txt2img", "Prompt"))
