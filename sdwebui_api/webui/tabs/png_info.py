"""What a picture's file says about how it was made, and from there into the other tabs."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from sdwebui_api.api.images import read_png_info
from sdwebui_api.api.services import Services
from sdwebui_api.errors import SdWebUIError
from sdwebui_api.webui import sending
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.picture_input import PictureInput
from sdwebui_api.webui.server_messages import said


def build(page: PageBuilder) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320):
            picture = page.add(
                PictureInput(
                    label=t("Picture"), type="filepath", image_mode=None, sources=["upload", "clipboard"], height=480,
                    elem_id="pnginfo_image",
                )
            )  # fmt: skip
        with gr.Column(scale=1, min_width=320):
            shown = page.add(gr.HTML(_hint(), elem_id="pnginfo_html_info", padding=False))
            infotext = page.add(gr.Textbox(visible=False, elem_id="pnginfo_generation_info"))
            actions = gr.Row(elem_classes=["result-actions"], elem_id="pnginfo_actions")
    _wire(page, picture, infotext, shown)
    page.when_complete(lambda: _buttons(page, actions, picture, infotext))


def _wire(page: PageBuilder, picture: gr.Image, infotext: gr.Textbox, shown: gr.HTML) -> None:
    async def look(path: str | None, request: gr.Request) -> tuple[str, str]:
        if not path:
            return "", _hint()
        services = page.services_for(request)
        try:
            found = await services.off_loop(_read, services, path)
        except SdWebUIError as error:
            return "", f'<div class="error-line">{html.escape(said(error.message))}</div>'
        return found["info"], info_html(found["info"], found["items"])

    picture.change(
        look, picture, [infotext, shown], show_progress="hidden", api_visibility="private",
        trigger_mode="always_last",
    )  # fmt: skip


def _read(services: Services, path: str) -> dict[str, Any]:
    return read_png_info(services, Path(path).read_bytes())


def _buttons(page: PageBuilder, actions: gr.Row, picture: gr.Image, infotext: gr.Textbox) -> None:
    def read(path: str | None, text: str | None) -> sending.Sent | None:
        return sending.Sent(path, text or "") if path else None

    with actions:
        sending.buttons(page, "pnginfo", [picture, infotext], read)


def _hint() -> str:
    return f'<div class="note">{t("Drop a picture here to read how it was made.")}</div>'


def info_html(infotext: str, items: Mapping[str, Any]) -> str:
    """The parameters first, then the file's other texts."""
    texts = {"parameters": infotext} if infotext else {}
    texts |= {name: str(value) for name, value in items.items()}
    if not texts:
        return f'<div class="note">{t("The file says nothing about how it was made.")}</div>'
    return "".join(
        f'<div class="infotext-text"><b>{html.escape(name)}</b><br>{html.escape(text)}</div>'
        for name, text in texts.items()
    )
