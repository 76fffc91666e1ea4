"""ModelZoo: its routes and its tab."""

from __future__ import annotations

from typing import Any

# Here and not where they are used: the extension's folder is importable only while this file is loaded.
from model_zoo.downloads import Downloads
from model_zoo.routes import router

from sdwebui_api.scripting.page_hooks import PageTab
from sdwebui_api.storage.net_guard import NetGuard


def app_started(app: Any) -> None:
    links = app.state.services.links
    app.state.model_zoo_downloads = Downloads(links.guard if links is not None else NetGuard())
    app.include_router(router)


def page_tab() -> PageTab:
    return PageTab("model_zoo", "ModelZoo", _build_tab)


def _build_tab(page: Any) -> None:
    from model_zoo.tab import build  # gradio

    build(page)
