"""Parameters that were read from a picture or a text, on their way into the fields of a generation tab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from sdwebui_api.api.generation_call import Kind
from sdwebui_api.api.infotext import read_infotext
from sdwebui_api.api.services import Services
from sdwebui_api.errors import BadRequest, NotFound
from sdwebui_api.generation.infotext_request import fields_of_infotext
from sdwebui_api.generation.networks import with_names_of_this_server
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.generation import overrides
from sdwebui_api.webui.opening import rows

CHECKPOINTS = ("Refiner", "Hires checkpoint")
"""Entries that name a checkpoint, perhaps as another server calls it."""

Updates = dict[Component, Any]


def read(services: Services, text: str) -> dict[str, Any]:
    """The entries of an infotext, as POST png-info answers them."""
    options = services.options.snapshot()
    return with_names_of_this_server(read_infotext(services, text, options), options, services.catalog)


def refill(page: PageBuilder, services: Services, tab: Kind, parameters: Mapping[str, Any]) -> Updates:
    """The fields of `tab` as `parameters` (from `read`) say. What they do not mention stays, as in A1111; a value that
    a field cannot hold does too. Raises BadRequest for an entry that is no number where one belongs."""
    options = services.options.snapshot()
    found = fields_of_infotext(parameters, tab, (), {}, options)
    spelled = _with_listed_names(services, parameters)
    updates = {}
    for name, component in page.parameters.get(tab, {}).items():
        update = _fitting(page, services, component, spelled.get(name))
        if update is not None:
            updates[component] = update
    for name, on in _switches(spelled, found.fields).items():
        switch = page.components.get(f"{tab}_{name}")
        if switch is not None:
            updates[switch] = gr.update(value=on)
    settings = page.components.get(overrides.id_of(tab))
    if settings is not None:
        updates[settings] = overrides.update_for(found.override_settings)
    return updates


def targets(page: PageBuilder, tab: Kind) -> list[Component]:
    """Every component that `refill` may change."""
    names = ("enable_hr", "seed_extra", "enable_refiner", "override_settings")
    switches = [page.components[f"{tab}_{name}"] for name in names if f"{tab}_{name}" in page.components]
    return [*page.parameters.get(tab, {}).values(), *switches]


def _switches(parameters: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, bool]:
    """What opens the groups of fields that A1111 shows on demand."""
    return {
        "enable_hr": bool(fields.get("enable_hr")),
        "seed_extra": "Variation seed" in parameters or "Seed resize from-1" in parameters,
        "enable_refiner": bool(parameters.get("Refiner")),
    }


def _with_listed_names(services: Services, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Sampler, schedule and checkpoints as the lists of this server spell them."""
    spelled = dict(parameters)
    schedule = spelled.get("Schedule type")
    if spelled.get("Sampler"):
        try:
            names = services.resolver.sampler_names(spelled["Sampler"], None if schedule == "Automatic" else schedule)
            spelled["Sampler"], spelled["Schedule type"] = names
        except BadRequest:
            spelled.pop("Sampler")
    for name in CHECKPOINTS:
        try:
            spelled[name] = services.catalog.checkpoints.find(str(spelled[name])).name
        except (KeyError, NotFound):
            continue
    return spelled


def _fitting(page: PageBuilder, services: Services, component: Component, value: Any) -> Any:
    """The update that shows `value` as `component` can hold it; None where it cannot."""
    if value is None:
        return None
    if isinstance(component, gr.Dropdown | gr.Radio):
        return _chosen(page, services, component, value)
    if isinstance(component, gr.Slider | gr.Number):
        value = _number(component, value)
        return None if value is None else gr.update(value=value)
    if isinstance(component, gr.Checkbox):
        return gr.update(value=value not in (False, "False", "false", "0", ""))
    return gr.update(value=str(value))


def _chosen(page: PageBuilder, services: Services, component: gr.Dropdown | gr.Radio, value: Any) -> Any:
    """With the choices of this moment: a checkpoint's name grows by its hash once that is known, and gradio refuses
    what the browser was not offered."""
    ask = page.lists.get(component)
    choices = rows(ask(services) if ask else component.choices)
    several = bool(getattr(component, "multiselect", False))
    found = _offered([one for _, one in choices], value, several=several)
    if found is None:
        return None
    return gr.update(value=found, choices=choices) if ask else gr.update(value=found)


def _number(component: gr.Slider | gr.Number, value: Any) -> float | int | None:
    """Within the limits of a slider. Whole where the component's numbers are."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    whole = component.precision == 0 or (isinstance(component, gr.Slider) and isinstance(component.step, int))
    if isinstance(component, gr.Slider):
        number = min(max(number, component.minimum), component.maximum)
        return round(number) if whole else number
    return int(value) if whole and str(value).lstrip("-").isdigit() else number


def _offered(offered: Sequence[Any], value: Any, *, several: bool) -> Any:
    if several:
        return [one for one in value if one in offered] if isinstance(value, list) else None
    if value in offered:
        return value
    same = [one for one in offered if str(one).lower() == str(value).lower()]
    return same[0] if same else None
