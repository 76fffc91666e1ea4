"""All settings of the server (of the user, in the cluster edition): searched, changed, applied."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.context import Context

from sdwebui_api.api.options import apply_options
from sdwebui_api.api.services import Services
from sdwebui_api.config.option_sections import PLACES
from sdwebui_api.errors import SdWebUIError
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.languages import localizations_folder
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.localization.texts import load_texts
from sdwebui_api.webui.refusals import named
from sdwebui_api.webui.server_messages import said
from sdwebui_api.webui.settings.choices import choices_of
from sdwebui_api.webui.settings.form import Form

RELOAD = "() => { location.reload(); }"
COLLECT = "() => [window.sdwebuiSettings.collect()]"
ATTACH = "window.sdwebuiSettings.attach(element, watch);"


def build(page: PageBuilder) -> None:
    languages = load_texts(localizations_folder(page.flags)).languages
    with gr.Row(elem_id="settings_buttons"):
        apply = gr.Button(t("Apply settings"), variant="primary", elem_id="settings_submit", min_width=140)
        reload_page = gr.Button(t("Reload UI"), elem_id="settings_restart_gradio", min_width=140)
        theme = gr.Button(t("Dark or light"), elem_id="settings_theme", min_width=140)
        unload = gr.Button(t("Free the memory of models"), elem_id="settings_unload_models", min_width=140)
    status = gr.Markdown(elem_id="settings_result")
    form = gr.HTML(js_on_load=ATTACH, elem_id="settings", apply_default_css=False)
    changes = gr.Textbox(visible=False)

    def show(request: gr.Request) -> str:
        return form_of(page.services_for(request), languages, tabs_of(page)).html()

    async def store(written: str, request: gr.Request) -> tuple[Any, str]:
        values: dict[str, Any] = json.loads(written or "{}")
        if not values:
            return gr.skip(), t("Nothing was changed.")
        services = page.services_for(request)
        try:
            refused = await apply_each(services, values)
        except SdWebUIError as error:
            return gr.skip(), f"{t('Not saved:')} {said(error.message)}"
        saved = sorted(values.keys() - refused.keys())
        told = [t("{count} settings saved: {names}", count=len(saved), names=", ".join(saved))] if saved else []
        told += [f"{t('Not saved:')} {named(error)}" for error in refused.values()]
        form = form_of(services, languages, tabs_of(page), refused) if saved else None
        return form.html() if form else gr.skip(), "\n\n".join(told)

    async def free(request: gr.Request) -> str:
        services = page.services_for(request)
        started = time.perf_counter()
        await services.off_loop(services.engine.unload)
        return t("Freed in {seconds} s.", seconds=f"{time.perf_counter() - started:.1f}")

    tab = Context.block
    assert isinstance(tab, gr.Tab)  # what this is called in
    tab.select(show, None, [form], api_visibility="private", show_progress="hidden")
    page.settings_saved = apply.click(
        store, [changes], [form, status], js=COLLECT, api_visibility="private", show_progress="hidden"
    )
    reload_page.click(None, js=RELOAD)
    theme.click(None, js="() => window.sdwebuiTheme.toggle()")
    unload.click(free, None, [status], api_visibility="private")


async def apply_each(services: Services, values: Mapping[str, Any]) -> dict[str, SdWebUIError]:
    """Takes over what can be, and answers why the others cannot. Raises SdWebUIError when nothing can be saved."""
    left, refused = dict(values), {}
    while left:
        try:
            await apply_options(services, left)
            break
        except SdWebUIError as error:
            name = re.split(r"[.\[]", (error.field or "").removeprefix("options."))[0]
            if name not in left:
                raise
            refused[name] = error
            del left[name]
    return refused


def tabs_of(page: PageBuilder) -> list[tuple[str, str]]:
    """(label, id) of those that may be hidden; without this one nobody could show them again."""
    tabs = page.tabs.children if page.tabs is not None else []
    return [(str(tab.label), str(tab.id)) for tab in tabs if isinstance(tab, gr.Tab) and tab.id != "settings"]


def form_of(
    services: Services, languages: Sequence[str], tabs: Sequence[tuple[str, str]], refused: Collection[str] = ()
) -> Form:
    """The form as the services' user sees it now. `refused`: settings that keep what was typed."""
    options, flags = services.options.snapshot(), services.flags
    current = services.current_checkpoint()
    if current is not None:
        options = options.with_values({"sd_model_checkpoint": current.known_title})
    locked = [name for name in options.table if services.options.is_frozen(name)]
    return Form(
        options,
        choices_of(services, languages, tabs),
        locked=locked,
        refused=refused,
        hidden=PLACES if flags.hide_ui_dir_config else (),
        notice=t("Settings are frozen on this server.") if flags.freeze_settings else "",
    )
