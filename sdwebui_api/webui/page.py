"""The page as a whole: built once at the start, mounted below the routes of the API."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from sdwebui_api.api.auth import Doorkeeper
from sdwebui_api.api.login_routes import login_routes
from sdwebui_api.api.services import Services
from sdwebui_api.config.flags import Flags
from sdwebui_api.config.paths import Paths
from sdwebui_api.config.users import USERS_FOLDER
from sdwebui_api.scripting.page_hooks import PageTab
from sdwebui_api.webui import named_calls, opening, page_options, quick_settings, remembered, sending, theme
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.languages import language_layer, localizations_folder
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.localization.texts import load_texts
from sdwebui_api.webui.page_guard import PageGuard
from sdwebui_api.webui.page_jobs import PageJobs
from sdwebui_api.webui.quick_lookup import QuickLookup, quick_asset
from sdwebui_api.webui.tabs.registry import TABS, Tab
from sdwebui_api.webui.ui_config import UiConfig, defaults_file

log = logging.getLogger(__name__)

TITLE = "Stable Diffusion"
TOASTS = {"Error": t("Error"), "Info": t("Info"), "Warning": t("Warning"), "Success": t("Success")}
"""Above gradio's messages; its own page shows the English ones, whatever title they were given."""
API_PREFIXES = ("/sdapi/", "/internal/", "/controlnet/", "/health/", "/api/predict/", "/metrics", "/sd_extra_networks/")
CLEAN_EVERY, KEPT_FOR = 3600, 86400
"""Seconds: gradio's copies of pictures and uploads."""


def mount_page(app: FastAPI, services: Services) -> Callable[[], None]:
    """Adds the page to `app`, whose own routes win over it. Takes seconds: gradio is large.

    What is returned lets go of the browsers, each of which holds a request open; to be called on the event loop when
    the server closes.
    """
    paths = Paths.from_flags(services.flags)
    # Read from the environment alone: how often it sums up its own calls, with pandas, for a view that is switched off.
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))
    cache = _cache_folder(paths)
    page = PageBuilder(services, PageJobs(cache), UiConfig(defaults_file(services.flags)))
    blocks = build_page(page)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[
            str(paths.data_dir / page_options.SOUND),
            *(str(Path(path).expanduser().absolute()) for path in services.flags.gradio_allowed_path),
        ],
        show_error=True,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=theme.page_theme(),
        css_paths=theme.style_sheets(),
        head=theme.head(),
        app_kwargs={"middleware": _layers(services, paths, cache)},
    )
    keeper: Doorkeeper = app.state.keeper
    place, mount = next((i, route) for i, route in reversed([*enumerate(app.routes)]) if isinstance(route, Mount))
    assert isinstance(mount.app, gr.routes.App)
    app.router.routes[place] = _PageMount("", _PageDoor(mount.app, keeper))
    app.router.routes[place:place] = login_routes(keeper)
    return mount.app.stop_event.set


def _layers(services: Services, paths: Paths, cache: Path) -> list[Middleware]:
    """Inside of gradio's compression, outermost first."""
    layers = [language_layer(services, load_texts(localizations_folder(services.flags)))]
    if services.views is not None:
        layers.append(Middleware(PageGuard, cache=cache, users=paths.data_dir / USERS_FOLDER))
    asset = quick_asset()
    if asset is not None:
        layers.append(Middleware(QuickLookup, asset=asset))
    return layers


class _PageDoor:
    """Shows the form to visitors who have to log in first."""

    def __init__(self, app: ASGIApp, keeper: Doorkeeper) -> None:
        self._app = app
        self._keeper = keeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._keeper.asks_page and scope.get("state", {}).get("user") is None:
            await self._keeper.refusal(scope, "")(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class _PageMount(Mount):
    """Leaves the API's addresses alone: an unknown one is the API's 404, a wrong method its 405, both in its form."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return (Match.NONE, {}) if path.startswith(API_PREFIXES) else super().matches(scope)


def build_page(page: PageBuilder) -> gr.Blocks:
    """Every tab that is shown. One that fails to build is logged and left out if an extension brought it."""
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(CLEAN_EVERY, KEPT_FOR)
    ) as blocks:
        page.blocks = blocks
        quick_settings.build(page)
        with gr.Tabs(elem_id="tabs") as page.tabs:
            for tab in _shown(TABS, page.flags):
                with gr.Tab(t(tab.label), id=tab.id, elem_id=f"tab_{tab.id}"):
                    tab.build(page)
            for extra in page.services.scripts.page_tabs(page.flags):
                _build_extra(page, extra)
        sending.wire_results(page)
        remembered.wire_others(page)
        page.hints |= {f"toast {title}": spoken for title, spoken in TOASTS.items()}
        page.finish()
        opening.wire(page)
        page_options.build(page)
        named_calls.build(page)
    # Jobs wait in the runner, never here: a handler that waits holds nothing up.
    blocks.queue(default_concurrency_limit=None)
    return blocks


def _build_extra(page: PageBuilder, tab: PageTab) -> None:
    if _hidden(tab.id, tab.label, page.flags):
        return
    with gr.Tab(t(tab.label), id=tab.id, elem_id=f"tab_{tab.id}"):
        try:
            tab.build(page)
        except Exception:
            log.exception("the tab %r could not be built", tab.label)
            gr.Markdown(t("This tab could not be built; the log tells more."))


def _shown(tabs: Iterable[Tab], flags: Flags) -> list[Tab]:
    return [tab for tab in tabs if not _hidden(tab.id, tab.label, flags)]


def _hidden(id: str, label: str, flags: Flags) -> bool:
    """`--always-hide-tabs` names tabs by label or id; letter case does not matter."""
    hidden = {name.strip().lower() for word in flags.always_hide_tabs for name in word.split(",")}
    return bool({id.lower(), label.lower()} & hidden)


def _cache_folder(paths: Paths) -> Path:
    """Gradio reads its folder of served files from the environment alone; beside the data there is room."""
    folder = Path(os.environ.setdefault("GRADIO_TEMP_DIR", str(paths.data_dir / "tmp" / "page")))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
