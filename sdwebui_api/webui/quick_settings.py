"""The row above the tabs: checkpoint, VAE, CLIP skip, and what the setting `quicksettings_list` names.

What is chosen becomes the server's setting at once. While that list is A1111's own (the checkpoint alone), the three
are shown; otherwise those that it names. Settings other than the three are plain HTML, so that they may differ from
user to user, and change without building the page anew.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from sdwebui_api.api.options import apply_options
from sdwebui_api.api.services import Services
from sdwebui_api.catalog.vaes import AUTOMATIC, NONE
from sdwebui_api.errors import SdWebUIError
from sdwebui_api.webui import opening
from sdwebui_api.webui.context import PageBuilder, has_session, user_of
from sdwebui_api.webui.languages import localizations_folder
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.localization.texts import load_texts
from sdwebui_api.webui.refusals import refusal
from sdwebui_api.webui.settings.choices import choices_of
from sdwebui_api.webui.settings.form import control
from sdwebui_api.webui.settings.labels import LABELS

LARGEST_SKIP = 12
ALONE = ["sd_model_checkpoint"]
"""A1111's default of `quicksettings_list`."""
QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
HEARD: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""For what may be refused: gradio shows nothing of a refusal that comes from outside of its queue."""


def build(page: PageBuilder) -> None:
    with gr.Row(elem_id="quicksettings", elem_classes=["quicksettings"]):
        checkpoint = page.add(
            gr.Dropdown(
                checkpoint_names(page.services),
                label=t("Stable Diffusion checkpoint"),
                elem_id="setting_sd_model_checkpoint",
                scale=4,
            ),
            choices=checkpoint_names,
        )
        refresh = page.tool("🔄", "refresh_sd_model_checkpoint", t("Look for model files again"))
        vae = page.add(
            gr.Dropdown(vae_names(page.services), label=t("VAE"), elem_id="setting_sd_vae", scale=2, min_width=140),
            choices=vae_names,
        )
        skip = page.add(
            gr.Slider(1, LARGEST_SKIP, 1, step=1, label=t("Clip skip"), elem_id="setting_CLIP_stop_at_last_layers",
                      scale=2, min_width=140)
        )  # fmt: skip
        more = gr.HTML("", elem_id="quicksettings_more", padding=False, visible=False)
        way_out = gr.HTML("", elem_id="log_out", padding=False, visible=False)
    shown: dict[str, Component] = {"sd_model_checkpoint": checkpoint, "sd_vae": vae, "CLIP_stop_at_last_layers": skip}
    for name, component in shown.items():
        _store(page, name, component)
    _store_more(page)
    page.current.append(lambda now: {shown[name]: value for name, value in current(now).items()})
    _wire_choice(page, shown, refresh, more, way_out)
    page.when_complete(lambda: _wire_refresh(page, refresh))


def wanted(services: Services, shown: Sequence[str]) -> list[str]:
    """The settings of the row. shown: those that it has components for."""
    options = services.options.snapshot()
    named = [name for name in options.quicksettings_list if name in options.table]
    return list(shown) if named == ALONE else named


def _wire_choice(
    page: PageBuilder, shown: dict[str, Component], refresh: gr.Button, more: gr.HTML, way_out: gr.HTML
) -> None:
    """Which settings are there, whenever the page is opened and whenever settings were applied."""
    outputs: list[Block] = [*shown.values(), refresh, more, way_out]

    def look(request: gr.Request) -> list[Any]:
        services = page.services_for(request)
        names = wanted(services, list(shown))
        others = [name for name in names if name not in shown]
        visible = [gr.update(visible=name in names) for name in shown]
        return [
            *visible, gr.update(visible="sd_model_checkpoint" in names),
            gr.update(value=_more_html(services, others), visible=bool(others)),
            gr.update(value=_way_out(user_of(request)), visible=has_session(request)),
        ]  # fmt: skip

    def wire() -> None:
        assert page.blocks is not None
        page.blocks.load(look, None, outputs, **QUIET)
        if page.settings_saved is not None:
            everything = opening.shown(page)
            page.settings_saved.success(look, None, outputs, **QUIET)
            page.settings_saved.success(ask_again, None, everything, **QUIET)

    def ask_again(request: gr.Request) -> dict[Component, Any]:
        """Lists too: some settings say what is in them."""
        return opening.updates(*opening.known(page, page.services_for(request)))

    page.when_complete(wire)


def _more_html(services: Services, names: Sequence[str]) -> str:
    options = services.options.snapshot()
    choices = choices_of(services, load_texts(localizations_folder(services.flags)).languages, ())
    rows = []
    for name in names:
        input = control(
            name, options.table[name], options[name], choices.get(name),
            locked=services.options.is_frozen(name) or not options.table[name].settable,
        ).replace('id="input_', 'id="quick_', 1)  # fmt: skip
        label = html.escape(t(LABELS.get(name, name)))
        rows.append(
            f'<div class="quick-setting" data-name="{html.escape(name)}"><label for="quick_{html.escape(name)}">{label}'
            f"</label>{input}</div>"
        )
    return "".join(rows)


def _way_out(user: str | None) -> str:
    name = html.escape(user or "")
    return f'<a href="logout" title="{t("Log out")}"><b>{name}</b> <span>{t("Log out")}</span></a>'


def _store_more(page: PageBuilder) -> None:
    """`assets/quick_settings.js` writes what was changed here, as JSON."""
    changed = gr.Textbox(visible="hidden", elem_id="quicksettings_changed")

    async def store(written: str, request: gr.Request) -> None:
        try:
            values = json.loads(written)["values"]
            await apply_options(page.services_for(request), values)
        except (ValueError, KeyError, TypeError):
            raise refusal("quicksettings_changed: expected a JSON object with values") from None
        except SdWebUIError as error:
            raise refusal(error.message) from None

    changed.change(store, changed, None, **HEARD)


def checkpoint_names(services: Services) -> list[tuple[str, str]]:
    """(shown, title); without folder and hash where the setting wants them short."""
    short = services.options.snapshot().sd_checkpoint_dropdown_use_short
    return [(file.stem if short else file.known_title, file.known_title) for file in services.catalog.checkpoints.all()]


def vae_names(services: Services) -> list[tuple[str, str]]:
    named = [(t(AUTOMATIC), AUTOMATIC), (t(NONE), NONE)]
    return [*named, *((file.name, file.name) for file in services.catalog.vaes.all())]


def current(services: Services) -> dict[str, Any]:
    """The settings as they are, in the form of the components."""
    options, checkpoint = services.options.snapshot(), services.current_checkpoint()
    vaes = [value for _, value in vae_names(services)]
    return {
        "sd_model_checkpoint": checkpoint.known_title if checkpoint else None,
        "sd_vae": options.sd_vae if options.sd_vae in vaes else AUTOMATIC,
        "CLIP_stop_at_last_layers": options.CLIP_stop_at_last_layers,
    }


def _store(page: PageBuilder, name: str, component: Component) -> None:
    async def store(value: Any, request: gr.Request) -> None:
        services = page.services_for(request)
        try:
            await apply_options(services, {name: value})
        except SdWebUIError as error:
            raise refusal(error.message) from None

    # A slider tells of every step while it is dragged, but "release" only of the last one.
    settled = component.release if isinstance(component, gr.Slider) else component.input  # type: ignore[attr-defined]
    settled(store, component, None, **HEARD)


def _wire_refresh(page: PageBuilder, refresh: gr.Button) -> None:
    """Looks for files, for all lists of the page."""

    async def look_again(request: gr.Request) -> dict[Component, Any]:
        services = page.services_for(request)
        await services.off_loop(_refresh, services)
        return opening.updates(*await services.off_loop(opening.known, page, services))

    outputs = opening.shown(page)
    refresh.click(look_again, None, outputs, show_progress="hidden", queue=False, api_visibility="private")


def _refresh(services: Services) -> None:
    catalog = services.catalog
    for part in (
        catalog.checkpoints, catalog.vaes, catalog.styles, catalog.loras, catalog.hypernetworks, catalog.upscalers
    ):  # fmt: skip
        part.refresh()
    services.engine.refresh_embeddings()
