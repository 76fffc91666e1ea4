"""FileBrowser: its routes and its tab, where `--filebrowser` asks for them."""

from __future__ import annotations

from typing import Any

# Here and not where they are used: the extension's folder is importable only while this file is loaded.
from file_browser.routes import router
from file_browser.uploads import Uploads

from sdwebui_api.config.flags import Flags
from sdwebui_api.scripting.page_hooks import PageTab


def app_started(app: Any) -> None:
    if not app.state.services.flags.filebrowser:
        return
    app.state.file_browser_uploads = Uploads()
    app.include_router(router)


def page_tab() -> PageTab:
    return PageTab("file_browser", "FileBrowser", _build_tab, _shown)


def _shown(flags: Flags) -> bool:
    return flags.filebrowser


def _build_tab(page: Any) -> None:
    from file_browser.tab import build  # gradio

    build(page)
