"""What every tab of the page is built with: the services, the defaults, and where to find the components of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component

from sdwebui_api.api.services import Services
from sdwebui_api.config.flags import Flags
from sdwebui_api.webui.page_jobs import PageJobs
from sdwebui_api.webui.ui_config import UiConfig

C = TypeVar("C", bound=Component)


@dataclass
class PageBuilder:
    """The page while it is made; its handlers keep it for the services."""

    services: Services
    jobs: PageJobs
    defaults: UiConfig
    components: dict[str, Component] = field(default_factory=dict)
    """By elem_id."""
    parameters: dict[str, dict[str, Component]] = field(default_factory=dict)
    """Tab id → infotext name ("Steps", "CFG scale", "Prompt") → the component that holds it."""
    blocks: gr.Blocks | None = None
    tabs: gr.Tabs | None = None
    _finishers: list[Callable[[], None]] = field(default_factory=list)

    @property
    def flags(self) -> Flags:
        return self.services.flags

    def services_for(self, request: gr.Request) -> Services:
        """The services as the visitor of `request` sees them."""
        return self.services

    def add(self, component: C, *, saved: str | None = None, infotext: tuple[str, str] | None = None) -> C:
        """Registers a component under its elem_id.

        saved: its key in ui-config.json, `txt2img/Sampling steps`: the file's value becomes the component's.
        infotext: (tab, name), such as ("txt2img", "Steps"): where parameters read from a picture go.
        """
        if component.elem_id:
            self.components[component.elem_id] = component
        if saved is not None:
            self.defaults.apply(saved, component)
        if infotext is not None:
            tab, name = infotext
            self.parameters.setdefault(tab, {})[name] = component
        return component

    def when_complete(self, finish: Callable[[], None]) -> None:
        """Called once all tabs are built, inside of the Blocks: for wires between tabs."""
        self._finishers.append(finish)

    def finish(self) -> None:
        for finish in self._finishers:
            finish()


def user_of(request: gr.Request | None) -> str | None:
    """The visitor's name; None where nobody logs in."""
    if request is None or request.request is None:
        return None
    if request.username:
        return str(request.username)
    state: dict[str, Any] = request.request.scope.get("state") or {}
    return state.get("user")
