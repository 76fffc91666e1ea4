"""The row above the tabs: checkpoint, VAE, CLIP skip. What is chosen becomes the server's setting at once."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components import Component

from sdwebui_api.api.options import apply_options
from sdwebui_api.api.services import Services
from sdwebui_api.catalog.vaes import AUTOMATIC, NONE
from sdwebui_api.errors import SdWebUIError
from sdwebui_api.webui import opening
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.generation.panel import checkpoint_titles
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.refusals import refusal

LARGEST_SKIP = 12


def build(page: PageBuilder) -> None:
    with gr.Row(elem_id="quicksettings", elem_classes=["quicksettings"]):
        checkpoint = page.add(
            gr.Dropdown(
                checkpoint_titles(page.services),
                label=t("Stable Diffusion checkpoint"),
                elem_id="setting_sd_model_checkpoint",
                scale=4,
            ),
            choices=checkpoint_titles,
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
    shown: dict[str, Component] = {"sd_model_checkpoint": checkpoint, "sd_vae": vae, "CLIP_stop_at_last_layers": skip}
    for name, component in shown.items():
        _store(page, name, component)
    page.current.append(lambda now: {shown[name]: value for name, value in current(now).items()})
    page.when_complete(lambda: _wire_refresh(page, refresh))


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
    settled(store, component, None, show_progress="hidden", queue=False, api_visibility="private")


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
