"""What is written about a model, and its picture: shown and changed where its card's ✎ was clicked."""

from __future__ import annotations

import html
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from sdwebui_api.api.services import Services
from sdwebui_api.catalog.beside import LARGEST_WEIGHT, About, Neighbours, write_about
from sdwebui_api.config.flags import UserFlags
from sdwebui_api.config.paths import Paths
from sdwebui_api.errors import SdWebUIError
from sdwebui_api.webui.generation.form import Form
from sdwebui_api.webui.generation.network_kinds import path_of
from sdwebui_api.webui.generation.results import Results
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.refusals import refusal

log = logging.getLogger(__name__)

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass
class Editor:
    """One per generation tab, over the page; `build` once the other parts are there."""

    form: Form
    results: Results
    fields: list[Component] = field(init=False)
    """In the order of `About`."""

    def build(self) -> None:
        form = self.form
        self.asked = gr.Textbox(visible="hidden", elem_id=form.id("card_edit"))
        self.chosen = gr.State("")  # as `asked`, as long as the editor is open
        with gr.Column(visible=False, elem_id=form.id("network_editor"), elem_classes=["network-editor"]) as self.box:
            self.title = gr.HTML("", padding=False)
            self.fields = self._fields()
            with gr.Row():
                save = gr.Button(t("Save"), variant="primary", elem_id=form.id("network_save"), min_width=90)
                picture = gr.Button(t("Shown picture as its preview"), elem_id=form.id("network_preview"), min_width=90)
                close = gr.Button(t("Close"), elem_id=form.id("network_close"), min_width=90)
        self.asked.change(self._open, self.asked, [self.box, self.title, self.chosen, *self.fields], **QUIET)
        saved = save.click(self._save, [self.chosen, *self.fields], self.box, **QUIET)
        pictured = picture.click(
            self._take_picture, [self.chosen, self.results.gallery, self.results.shown], self.box, **QUIET
        )
        for done in (saved, pictured):
            done.success(None, self.asked, None, js=f"(asked) => window.sdwebuiNetworks.refresh('{form.kind}', asked)")
        close.click(None, None, self.box, js="() => ({__type__: 'update', visible: false})", show_progress="hidden")

    def _fields(self) -> list[Component]:
        id = self.form.id
        description = gr.Textbox(label=t("Description"), lines=2, elem_id=id("network_description"))
        activation = gr.Textbox(
            label=t("Activation text"), info=t("Follows it into the prompt"), elem_id=id("network_activation")
        )
        negative = gr.Textbox(
            label=t("Negative text"), info=t("Goes into the negative prompt"), elem_id=id("network_negative")
        )
        weight = gr.Slider(
            0, 2, 0, step=0.01, label=t("Preferred weight (0: the default)"), elem_id=id("network_weight")
        )
        notes = gr.Textbox(label=t("Notes"), lines=3, elem_id=id("network_notes"))
        return [description, activation, negative, weight, notes]

    async def _open(self, asked: str, request: gr.Request) -> Any:
        services = self.form.page.services_for(request)
        path = await self._path(services, asked)
        about = await services.off_loop(Neighbours().about, path)
        title = (
            f'<div class="network-title"><b>{html.escape(path.stem)}</b> <small>{html.escape(path.name)}</small></div>'
        )
        values = (about.description, about.activation, about.negative, about.weight, about.notes)
        return gr.update(visible=True), title, asked, *values

    async def _save(
        self, chosen: str, description: str, activation: str, negative: str, weight: float, notes: str,
        request: gr.Request,
    ) -> Any:  # fmt: skip
        services = self.form.page.services_for(request)
        path = await self._path(services, chosen)
        if not isinstance(weight, (int, float)) or abs(weight) > LARGEST_WEIGHT:
            raise refusal(t("The weight is too large"))
        about = About(description or "", activation or "", negative or "", float(weight), notes or "")
        await self._change(services, path, lambda: write_about(path, about))
        return gr.update(visible=False)

    async def _take_picture(
        self, chosen: str, pictures: Sequence[tuple[str, str | None]] | None, shown: int, request: gr.Request
    ) -> Any:
        services = self.form.page.services_for(request)
        path = await self._path(services, chosen)
        if not pictures:
            raise refusal(t("There is no picture yet"))
        source = Path(pictures[min(shown, len(pictures) - 1)][0])
        await self._change(services, path, lambda: _keep_picture(source, path.with_name(f"{path.stem}.preview.png")))
        return gr.update(visible=False)

    async def _path(self, services: Services, asked: str) -> Path:
        try:
            return await services.off_loop(path_of, services, asked)
        except SdWebUIError as error:
            raise refusal(error.message) from None

    async def _change(self, services: Services, path: Path, change: Any) -> None:
        if services.flags.freeze_settings:
            raise refusal(t("Settings are frozen on this server"))
        if not is_own(services, path):
            raise refusal(t("This model belongs to all users; what stands beside it cannot be changed here"))
        try:
            await services.off_loop(change)
        except OSError:
            log.warning("what stands beside a model cannot be written", exc_info=True)
            raise refusal(t("The folder of this model cannot be written")) from None


def is_own(services: Services, path: Path) -> bool:
    """`--cluster`: whether a file lies in the user's own folder, not in one that all share."""
    flags = services.flags
    return not isinstance(flags, UserFlags) or path.is_relative_to(Paths.from_flags(flags).data_dir)


def _keep_picture(source: Path, target: Path) -> None:
    """With its parameters, as it was made."""
    with Image.open(source) as image:
        info = image.info.get("parameters")
        text = None
        if isinstance(info, str):
            from PIL.PngImagePlugin import PngInfo

            text = PngInfo()
            text.add_text("parameters", info)
        written = target.with_name(f"{target.name}.tmp")
        image.save(written, "PNG", pnginfo=text)
    os.replace(written, target)
