"""Which extensions are loaded. A change is applied by starting the program anew, once the jobs that run have ended."""

from __future__ import annotations

import json

import gradio as gr
from gradio.context import Context

from sdwebui_api.api.services import Services
from sdwebui_api.errors import SdWebUIError
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.extension_list import extensions_html, rows_of
from sdwebui_api.webui.localization import t

LEVELS = ("none", "extra", "all")
UNTICKED = """(level) => [level, JSON.stringify(
[...document.querySelectorAll("#extensions_list input")].filter((box) => !box.checked).map((box) => box.value))]"""
WAIT = "(state) => { if (state === 'restarting') window.sdwebuiWaitForRestart(); }"


def build(page: PageBuilder) -> None:
    locked = page.services.options.is_frozen("disabled_extensions")
    with gr.Row():
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
    unticked = gr.Textbox(visible=False)
    state = gr.Textbox(visible=False)

    async def show(request: gr.Request) -> tuple[str, str]:
        services = page.services_for(request)
        options = services.options.snapshot()
        rows = await services.off_loop(
            rows_of, services.scripts.extensions, options.disabled_extensions, services.scripts.failures
        )
        chosen = options.disable_all_extensions
        return extensions_html(rows, locked=locked), chosen if chosen in LEVELS else "none"

    async def store(level: str, written: str) -> tuple[str, str]:
        try:
            return await apply_extensions(page.services, json.loads(written or "[]"), level)
        except SdWebUIError as error:
            return t("Not saved: {problem}", problem=error.message), ""

    tab = Context.block
    assert isinstance(tab, gr.Tab)  # what this is called in
    tab.select(show, None, [table, level], api_visibility="private", show_progress="hidden")
    look.click(show, None, [table, level], api_visibility="private", show_progress="hidden")
    applied = apply.click(store, [level, unticked], [status, state], js=UNTICKED, api_visibility="private")
    applied.then(None, [state], js=WAIT)


async def apply_extensions(services: Services, disabled: list[str], level: str) -> tuple[str, str]:
    """(message, state): stores what is not to be loaded, then restarts when anything changed. Raises SdWebUIError."""
    known = {extension.name for extension in services.scripts.extensions}
    options = services.options.snapshot()
    wanted = [name for name in options.disabled_extensions if name not in known] + sorted(known & set(disabled))
    level = level if level in LEVELS else "none"
    same = set(wanted) == set(options.disabled_extensions) and level == options.disable_all_extensions
    if same and not _differs_from_running(services, set(wanted), level):
        return t("Nothing was changed."), ""
    await services.off_loop(services.options.keep, {"disabled_extensions": wanted, "disable_all_extensions": level})
    if services.stop_server is None:
        return t("Saved; it takes effect at the next start."), ""
    services.stop_server("restart")
    return t("Restarting: running jobs end first, then the page comes back by itself."), "restarting"


def _differs_from_running(services: Services, disabled: set[str], level: str) -> bool:
    flags = services.flags
    if flags.disable_all_extensions or flags.disable_extra_extensions:
        return False

    def wanted(name: str, builtin: bool) -> bool:
        return name not in disabled and level != "all" and (builtin or level != "extra")

    return any(one.enabled != wanted(one.name, one.builtin) for one in services.scripts.extensions)
