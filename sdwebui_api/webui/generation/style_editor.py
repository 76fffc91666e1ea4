"""Saving the prompts as a style, and deleting one: a row below the prompts that opens by its button."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from sdwebui_api.api.services import Services
from sdwebui_api.catalog.styles import Style
from sdwebui_api.webui.generation.form import Form
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.refusals import refusal

log = logging.getLogger(__name__)

Names = Callable[[Services], Sequence[str]]


def build(
    form: Form, opener: gr.Button, prompt: gr.Textbox, negative: gr.Textbox, styles: gr.Dropdown, names: Names
) -> None:
    """`names`: what the drop-downs of styles offer. The row begins with the name of the style chosen first."""
    page = form.page
    with gr.Row(visible=False, elem_id=form.id("style_editor"), elem_classes=["style-editor"]) as row:
        name = gr.Textbox(label=t("Name of the style"), max_lines=1, elem_id=form.id("style_name"), scale=3)
        save = gr.Button(t("Save both prompts"), variant="primary", elem_id=form.id("style_save"), min_width=120)
        delete = gr.Button(t("Delete the style"), variant="stop", elem_id=form.id("style_delete"), min_width=120)
        close = gr.Button(t("Close"), elem_id=form.id("style_close"), min_width=80)
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    opener.click(
        lambda chosen: (gr.update(visible=True), chosen[0] if chosen else gr.skip()), styles, [row, name], queue=False,
        **quiet,
    )  # fmt: skip
    close.click(lambda: gr.update(visible=False), None, row, queue=False, **quiet)

    def wire() -> None:
        lists = [component for component, choices in page.lists.items() if choices is names]

        async def store(wanted: str | None, text: str, negative_text: str, request: gr.Request) -> dict[Any, Any]:
            services = page.services_for(request)
            style = Style((wanted or "").strip(), text or "", negative_text or "")
            if not style.name or style.name.startswith("#"):
                raise refusal(t("Give the style a name that does not begin with #"))
            await _change(services, lambda: services.catalog.styles.save(style))
            gr.Info(t("The style is saved"))
            return _offered(lists, names(services))

        async def remove(wanted: str | None, request: gr.Request) -> dict[Any, Any]:
            services = page.services_for(request)
            if services.catalog.styles.find((wanted or "").strip()) is None:
                raise refusal(t("There is no style of this name"))
            await _change(services, lambda: services.catalog.styles.delete((wanted or "").strip()))
            gr.Info(t("The style is deleted"))
            return _offered(lists, names(services))

        save.click(store, [name, prompt, negative], lists, **quiet)
        delete.click(remove, [name], lists, **quiet)

    page.when_complete(wire)


def _offered(lists: Sequence[Any], names: Sequence[str]) -> dict[Any, Any]:
    return {component: gr.update(choices=list(names)) for component in lists}


async def _change(services: Services, change: Callable[[], object]) -> None:
    if services.flags.freeze_settings:
        raise refusal(t("Settings are frozen on this server"))
    try:
        await services.off_loop(change)
    except (OSError, ValueError):
        log.warning("styles cannot be written", exc_info=True)
        raise refusal(t("The file of styles cannot be written; the log tells more")) from None
