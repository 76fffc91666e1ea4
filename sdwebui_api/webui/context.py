"""What every tab of the page is built with: the services, the defaults, and where to find the components of others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from sdwebui_api.api.services import Services, services_in
from sdwebui_api.config.flags import Flags
from sdwebui_api.webui.generation.results import Results
from sdwebui_api.webui.page_jobs import PageJobs
from sdwebui_api.webui.ui_config import UiConfig, defaults_file

C = TypeVar("C", bound=Component)
Choices = Callable[[Services], Sequence[Any]]
"""What a drop-down offers, as the visitor's services know it now."""

Following = Callable[[Services, Mapping[Component, Any]], Mapping[Component, dict[str, Any]]]
"""(services, component → value, of those that have another one than the page was built with) → updates."""

BROWSER_SECRET = "sdwebui"
"""What a browser keeps for itself is no secret; gradio wants one, and it must outlive a restart of the server."""


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
    lists: dict[Component, Choices] = field(default_factory=dict)
    """Drop-downs whose choices come and go; asked again when the page is opened and when somebody refreshes."""
    results: dict[str, Results] = field(default_factory=dict)
    """Generation tab → its pictures, as they are shown."""
    remembered: list[tuple[gr.BrowserState, dict[str, Component]]] = field(default_factory=list)
    """A browser's store, and the components whose values it keeps, by their keys."""
    current: list[Callable[[Services], dict[Component, Any]]] = field(default_factory=list)
    """Values that are the server's, not the browser's; asked together with `lists`."""
    following: list[Following] = field(default_factory=list)
    """What components look like because of the values of others, when the page is opened with these values."""
    hints: dict[str, str] = field(default_factory=dict)
    """elem_id → tool tip (marked by `t`)."""
    blocks: gr.Blocks | None = None
    tabs: gr.Tabs | None = None
    settings_saved: Dependency | None = None
    """When somebody has applied settings: `.success(…)` shows again what depends on them."""
    picture_tabs: gr.Tabs | None = None
    """img2img's ways to bring a picture: `gr.Tabs(selected="inpaint")`, with the component `img2img_mode`."""
    _finishers: list[Callable[[], None]] = field(default_factory=list)
    _stores: list[gr.BrowserState] = field(default_factory=list)

    @property
    def flags(self) -> Flags:
        return self.services.flags

    def services_for(self, request: gr.Request) -> Services:
        """The services as the visitor of `request` sees them. Raises Unauthorized where nobody is known."""
        return services_in(request.request.scope if request.request is not None else {}, self.services)

    def defaults_for(self, services: Services) -> UiConfig:
        """ui-config.json of the visitor whose services these are."""
        shared = services.flags is self.services.flags
        return self.defaults if shared else self.defaults.of_user(defaults_file(services.flags))

    def add(
        self,
        component: C,
        *,
        saved: str | None = None,
        infotext: tuple[str, str] | None = None,
        choices: Choices | None = None,
    ) -> C:
        """Registers a component under its elem_id.

        saved: its key in ui-config.json, `txt2img/Sampling steps`: the file's value becomes the component's.
        infotext: (tab, name), such as ("txt2img", "Steps"): where parameters read from a picture go.
        choices: asked again when the page is opened and refreshed.
        """
        if choices is not None:
            self.lists[component] = choices
        if component.elem_id:
            self.components[component.elem_id] = component
        if saved is not None:
            self.defaults.apply(saved, component)
        if infotext is not None:
            tab, name = infotext
            self.parameters.setdefault(tab, {})[name] = component
        return component

    def tool(self, symbol: str, id: str, hint: str) -> gr.Button:
        """A small square button; `hint` (marked by `t`) is its tool tip."""
        self.hints[id] = hint
        return self.add(gr.Button(symbol, elem_id=id, elem_classes=["tool"], size="sm", min_width=40, scale=0))

    def store(self, key: str) -> gr.BrowserState:
        """What a browser keeps for itself under `key`.

        It stands beside the tabs, wherever this is called: one inside of a tab is not read before the tab is opened.
        """
        store = gr.BrowserState(None, storage_key=f"sdwebui_{key}", secret=BROWSER_SECRET, render=False)
        self._stores.append(store)
        return store

    def clean_later(self, files: Iterable[Path]) -> None:
        """For files in gradio's cache that no component has shown: they go when those that one has shown go."""
        assert self.tabs is not None
        self.tabs.temp_files |= {str(file) for file in files}

    def when_complete(self, finish: Callable[[], None]) -> None:
        """Called once all tabs are built, inside of the Blocks: for wires between tabs."""
        self._finishers.append(finish)

    def finish(self) -> None:
        for finish in self._finishers:
            finish()
        for store in self._stores:
            store.render()
        hints = "".join(f'<span data-for="{id}">{hint}</span>' for id, hint in self.hints.items())
        gr.HTML(hints, elem_id="page_hints", padding=False)


def user_of(request: gr.Request | None) -> str | None:
    """The visitor's name; None where nobody logs in."""
    user: str | None = _state(request).get("user")
    return user


def has_session(request: gr.Request | None) -> bool:
    """Whether the visitor has logged in by the page's form, and can log out therefore."""
    return bool(_state(request).get("logged_in"))


def _state(request: gr.Request | None) -> dict[str, Any]:
    """What the doorkeeper noted of the visitor."""
    if request is None or request.request is None:
        return {}
    return request.request.scope.get("state") or {}
