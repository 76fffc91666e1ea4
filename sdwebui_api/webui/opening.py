"""What happens when somebody opens the page, or presses a refresh button: lists are asked for again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from sdwebui_api.api.services import Services
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.remembered import restored
from sdwebui_api.webui.ui_config import fits

Offered = dict[Component, list[Any]]


def wire(page: PageBuilder) -> None:
    """Once, after all tabs are built."""
    assert page.blocks is not None
    stores = [store for store, _ in page.remembered]
    outputs = list(dict.fromkeys([*shown(page), *(one for _, kept in page.remembered for one in kept.values())]))

    async def opened(request: gr.Request, *stored: Any) -> dict[Component, Any]:
        services = page.services_for(request)
        offered, values = await services.off_loop(known, page, services)
        own = page.defaults_for(services).changed
        values |= {one: value for one, value in own.items() if one not in offered or _offers(offered[one], one, value)}
        for (_, kept), found in zip(page.remembered, stored, strict=True):
            values |= restored(kept, found, {one: [value for _, value in rows] for one, rows in offered.items()})
        changed = updates(offered, values)
        for follow in page.following:
            for component, update in (await services.off_loop(follow, services, values)).items():
                changed[component] = gr.update(**{**changed.get(component, {}), **update})
        return changed

    page.blocks.load(opened, stores, outputs, show_progress="hidden", api_visibility="private", queue=False)


def _offers(found: list[Any], component: Component, value: Any) -> bool:
    return fits(component, value, [choice for _, choice in found])


def shown(page: PageBuilder) -> list[Block]:
    """What `known` speaks about."""
    return list(
        dict.fromkeys([*page.lists, *(component for tell in page.current for component in tell(page.services))])
    )


def known(page: PageBuilder, services: Services) -> tuple[Offered, dict[Component, Any]]:
    """Every list of the page as it is now, in rows of (shown, value), and the server's own values."""
    offered = {component: rows(ask(services)) for component, ask in page.lists.items()}
    return offered, {component: value for tell in page.current for component, value in tell(services).items()}


def rows(offered: Any) -> list[tuple[str, Any]]:
    return [tuple(one) if isinstance(one, (tuple, list)) else (str(one), one) for one in offered]


def updates(offered: Offered, values: Mapping[Component, Any]) -> dict[Component, Any]:
    changed: dict[Component, Any] = {component: gr.update(choices=found) for component, found in offered.items()}
    for component, value in values.items():
        changed[component] = gr.update(**{**changed.get(component, {}), "value": value})
    return changed
