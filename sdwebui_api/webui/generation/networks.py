"""Tabs of extra networks on a generation tab: LoRAs, embeddings, hypernetworks and checkpoints, as cards."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from sdwebui_api.api.network_pictures import network_folders
from sdwebui_api.api.options import apply_options
from sdwebui_api.api.services import Services
from sdwebui_api.errors import SdWebUIError
from sdwebui_api.webui.generation.form import Form
from sdwebui_api.webui.generation.network_cards import Look, cards_html
from sdwebui_api.webui.generation.network_editor import Editor
from sdwebui_api.webui.generation.network_kinds import networks_of, path_of, refresh_kind
from sdwebui_api.webui.generation.results import Results
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.quick_settings import checkpoint_names
from sdwebui_api.webui.refusals import refusal

LABELS = {
    "lora": t("Lora"),
    "textual_inversion": t("Textual Inversion"),
    "hypernetworks": t("Hypernetworks"),
    "checkpoints": t("Checkpoints"),
}
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build(form: Form, results: Results) -> None:
    """Called inside of the generation tab's `gr.Tabs`, after the generation itself. Cards come when a tab is opened."""
    for kind in in_order(str(form.page.services.options.snapshot()["ui_extra_networks_tab_reorder"])):
        with gr.Tab(LABELS[kind], id=f"{form.kind}_{kind}", elem_id=form.id(f"{kind}_tab")) as tab:
            cards = gr.HTML("", elem_id=form.id(f"{kind}_cards"), padding=False)
            refresh = gr.Button(visible="hidden", elem_id=form.id(f"{kind}_refresh"))
            seen = gr.State("")  # what the browser shows already is not sent again
        _wire(form, kind, tab, [cards, seen], refresh)
    editor = Editor(form, results)
    form.page.when_complete(lambda: _wire_checkpoint(form))
    form.page.when_complete(editor.build)


def in_order(wanted: str) -> list[str]:
    """The kinds as `ui_extra_networks_tab_reorder` names them (by label, between commas), the others after them."""
    places = [name.strip().lower().replace(" ", "_") for name in wanted.split(",")]
    return sorted(LABELS, key=lambda kind: places.index(kind) if kind in places else len(places))


def _wire(form: Form, kind: str, tab: gr.Tab, shown: Sequence[Component], refresh: gr.Button) -> None:
    """shown: the cards, and the digest of them."""

    async def show(before: str, request: gr.Request) -> tuple[Any, Any]:
        services = form.page.services_for(request)
        try:
            html = await services.off_loop(cards_of, services, kind)
        except SdWebUIError as error:
            raise refusal(error.message) from None
        digest = hashlib.sha256(html.encode()).hexdigest()
        return (html, digest) if digest != before else (gr.skip(), gr.skip())

    async def look_again(request: gr.Request) -> tuple[Any, Any]:
        services = form.page.services_for(request)
        await services.off_loop(refresh_kind, services, kind)
        return await show("", request)

    tab.select(show, shown[1], shown, **QUIET)
    refresh.click(look_again, None, shown, **QUIET)


def _wire_checkpoint(form: Form) -> None:
    """A click on a checkpoint is a choice in the row above the tabs."""
    chosen = gr.Textbox(visible="hidden", elem_id=form.id("card_checkpoint"))

    async def choose(clicked: str, request: gr.Request) -> Any:
        services = form.page.services_for(request)
        try:
            path = await services.off_loop(path_of, services, clicked)
            await apply_options(services, {"sd_model_checkpoint": str(path)})
        except SdWebUIError as error:
            raise refusal(error.message) from None
        checkpoint = services.current_checkpoint()
        # Its hash may have become known, and with it its title.
        return gr.update(choices=checkpoint_names(services), value=checkpoint.known_title if checkpoint else None)

    quick = form.page.components["setting_sd_model_checkpoint"]
    chosen.change(choose, chosen, quick, **QUIET)


def cards_of(services: Services, kind: str) -> str:
    """HTML. Reads what stands beside the files of this kind."""
    look = Look.of(services.options.snapshot())
    return cards_html(kind, networks_of(services, kind), network_folders(services)[kind], look)
