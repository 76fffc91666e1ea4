"""What a browser remembers of a tab's values over reloads; the server's defaults are in ui-config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.generation.form import Form
from sdwebui_api.webui.ui_config import fits


def wire(form: Form) -> None:
    _keep(form.page, f"{form.kind}_values", form.kept)


def wire_others(page: PageBuilder) -> None:
    """What the other tabs keep in ui-config.json. Once all tabs are built."""
    wired = {component for _, kept in page.remembered for component in kept.values()}
    others = {key: component for key, component in page.defaults.components.items() if component not in wired}
    if others:
        _keep(page, "other_values", others)


def _keep(page: PageBuilder, name: str, kept: Mapping[str, Component]) -> None:
    """Every change goes into the browser's store, without asking the server; opening the page reads it."""
    store = page.store(name)
    page.remembered.append((store, dict(kept)))
    names = json.dumps(list(kept))
    js = f"(...values) => Object.fromEntries({names}.map((name, index) => [name, values[index]]))"
    gr.on(
        [component.change for component in kept.values()],  # type: ignore[attr-defined]
        None,
        list(kept.values()),
        store,
        js=js,
        show_progress="hidden",
    )


def restored(
    kept: Mapping[str, Component], stored: object, choices: Mapping[Component, list[Any]]
) -> dict[Component, Any]:
    """Component → value, of what was stored and still fits."""
    values = stored if isinstance(stored, dict) else {}
    return {
        component: values[name]
        for name, component in kept.items()
        if name in values and values[name] is not None and fits(component, values[name], choices.get(component))
    }
