"""Which extensions are loaded. A change is applied by starting the program anew, once the jobs that run have ended."""

from __future__ import annotations

import json

import gradio as gr
from gradio.context import Context

from sdwebui_api.api.services import Services
from sdwebui_api.config.options import Options
from sdwebui_api.config.paths import Paths
from sdwebui_api.errors import SdWebUIError
from sdwebui_api.scripting.build import installed_extensions
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.extension_list import ExtensionRow, extensions_html, rows_of
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.server_messages import said

LEVELS = ("none", "extra", "all")
UNTICKED = """(level) => [level, JSON.stringify(
[...document.querySelectorAll("#extensions_list input")].filter((box) => !box.checked).map((box) => box.value))]"""
WAIT = "(state) => { if (state === 'restarting') window.sdwebuiWaitForRestart(); }"


def build(page: PageBuilder) -> None:
    # One process has one set of extensions: no user may change it for the others.
    locked = page.services.options.is_frozen("disabled_extensions") or page.flags.cluster
    with gr.Row(elem_id="extensions_buttons"):
        apply = gr.Button(t("Apply and restart UI"), variant="primary", interactive=not locked, min_width=140)
        look = gr.Button(t("Look again"), min_width=140)
    level = gr.Radio(
        [(t("none"), "none"), (t("extra (all that are not built in)"), "extra"), (t("all"), "all")],
        value="none",
        label=t("Disable all extensions"),
        elem_id="extensions_disable_all",
        interactive=not locked,
    )
    status = gr.Markdown(elem_id="extensions_result")
    table = gr.HTML(elem_id="extensions_list", apply_default_css=False)
    how = t("To install one: put its folder into extensions/, look again, then apply and restart.")
    gr.HTML(f'<div class="note">{how}</div>', padding=False)
    unticked = gr.Textbox(visible=False)
    state = gr.Textbox(visible=False)

    async def show(request: gr.Request) -> tuple[str, str]:
        services = page.services_for(request)
        options = services.options.snapshot()
        rows = await services.off_loop(_rows, services, options)
        chosen = options.disable_all_extensions
        return extensions_html(rows, locked=locked), chosen if chosen in LEVELS else "none"

    async def store(level: str, written: str, request: gr.Request) -> tuple[str, str]:
        try:
            return await apply_extensions(page.services_for(request), json.loads(written or "[]"), level)
        except SdWebUIError as error:
            return f"{t('Not saved:')} {said(error.message)}", ""

    tab = Context.block
    assert isinstance(tab, gr.Tab)  # what this is called in
    tab.select(show, None, [table, level], api_visibility="private", show_progress="hidden")
    look.click(show, None, [table, level], api_visibility="private", show_progress="hidden")
    applied = apply.click(store, [level, unticked], [status, state], js=UNTICKED, api_visibility="private")
    applied.then(None, [state], js=WAIT)


def _rows(services: Services, options: Options) -> list[ExtensionRow]:
    installed = installed_extensions(services.flags, Paths.from_flags(services.flags), options)
    return rows_of(installed, _loaded(services), options.disabled_extensions, services.scripts.failures)


def _loaded(services: Services) -> set[str]:
    return {extension.name for extension in services.scripts.extensions if extension.enabled}


async def apply_extensions(services: Services, disabled: list[str], level: str) -> tuple[str, str]:
    """(message, state): stores what is not to be loaded, then restarts when that differs from what is.

    disabled: names of the boxes without a tick. Raises SdWebUIError.
    """
    options, paths = services.options.snapshot(), Paths.from_flags(services.flags)
    known = {extension.name for extension in installed_extensions(services.flags, paths, options)}
    gone = [name for name in options.disabled_extensions if name not in known]
    wanted = {
        "disabled_extensions": [*gone, *sorted(known & set(disabled))],
        "disable_all_extensions": level if level in LEVELS else "none",
    }
    await services.off_loop(services.options.keep, wanted)
    next_time = installed_extensions(services.flags, paths, services.options.snapshot())
    if {extension.name for extension in next_time if extension.enabled} == _loaded(services):
        return t("Saved; nothing else is to be loaded than is already."), ""
    if services.stop_server is None:
        return t("Saved; it takes effect at the next start."), ""
    services.stop_server("restart")
    return t("Restarting: running jobs end first, then the page comes back by itself."), "restarting"
