"""The scripts of a generation tab: always-on ones, folded, and one that may be chosen.

Their controls are made of the arguments that they declare.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from sdwebui_api.errors import SdWebUIError
from sdwebui_api.scripting.arguments import Argument
from sdwebui_api.scripting.hooks import Script
from sdwebui_api.webui.generation.form import Body, Form
from sdwebui_api.webui.localization import t

NONE = "None"
OWN_PANELS = ("controlnet",)
"""Always-on scripts whose controls are elsewhere on the page (`control_units.py`)."""
FEW = 4
"""Choices that are shown side by side."""
LONG = ("prompts", "lines", "text")
"""What names of texts hold that take many lines."""


def build(form: Form) -> None:
    _always_on(form)
    _chosen(form)


def _always_on(form: Form) -> None:
    """Sent where somebody has changed something; a script left alone is what the request without it gets."""
    services = form.page.services
    rows = {row["name"]: row["args"] for row in services.scripts.rows(form.kind, services.catalog, always_on=True)}
    for script in services.scripts.offered(form.kind, always_on=True):
        if script.title.lower() in OWN_PANELS or not rows.get(script.title.lower()):
            continue
        declared = script.arguments_for(form.kind, services.catalog)
        if any(asked(one) and not _is_note(one) for one in declared):
            with gr.Accordion(t(script.title), open=False, elem_id=_id(form, script.title, "always_on")):
                controls = _controls(form, script, declared)
            form.contribute(controls, _always_on_writer(script.title, declared))


def _always_on_writer(title: str, declared: Sequence[Argument]) -> Any:
    untouched = [list(one.default) if isinstance(one.default, tuple) else one.default for one in declared]

    def write(body: Body, *values: Any) -> None:
        left = iter(values)
        args = [spoken(one, next(left)) if asked(one) else one.default for one in declared]
        if args != untouched:
            body.setdefault("alwayson_scripts", {})[title] = {"args": args}

    return write


def _chosen(form: Form) -> None:
    services = form.page.services
    scripts = services.scripts.offered(form.kind, always_on=False)
    if not scripts:
        return
    titles = [script.title for script in scripts]
    chosen = form.add(
        gr.Dropdown(
            [(t("None"), NONE), *((t(title), title) for title in titles)], value=NONE, label=t("Script"),
            elem_id=form.id("script"),
        ),
        label="Script",
    )  # fmt: skip
    rows = {row["name"]: row["args"] for row in services.scripts.rows(form.kind, services.catalog, always_on=False)}
    groups, inputs = [], []
    for script in scripts:
        declared = script.arguments_for(form.kind, services.catalog) if rows.get(script.title.lower()) else ()
        group, controls = _group(form, script, declared, visible=chosen.value == script.title)
        groups.append(group)
        inputs.append((script.title, declared, controls))
    shown = "({__type__: 'update', visible: one === title})"
    js = f"(title) => {json.dumps(titles)}.map((one) => {shown})"
    chosen.change(None, chosen, groups, js=js, show_progress="hidden")
    for title, declared, controls in inputs:
        form.contribute([chosen, *controls], _writer(title, declared))


def _group(
    form: Form, script: Script, declared: Sequence[Argument], *, visible: bool
) -> tuple[gr.Column, list[Component]]:
    with gr.Column(visible=visible, elem_id=_id(form, script.title), elem_classes=["more"]) as group:
        return group, _controls(form, script, declared)


def _controls(form: Form, script: Script, declared: Sequence[Argument]) -> list[Component]:
    shown = {one.name: one for one in declared if asked(one)}
    in_rows = {one.listed.of: one for one in shown.values() if one.listed is not None}
    made: dict[str, Component] = {}
    for name, argument in shown.items():
        if name in in_rows:
            _row(form, script, shown, in_rows[name], made)
        elif name not in made:
            made[name] = _control(form, script, argument)
    for listed in in_rows.values():
        _wire_listed(form, script, listed, made)
    return [made[name] for name in shown]


def _row(
    form: Form, script: Script, shown: dict[str, Argument], argument: Argument, made: dict[str, Component]
) -> None:
    """What is asked for, and its values: as a text, or out of a list."""
    assert argument.listed is not None
    with gr.Row(elem_classes=["seed", "compact"]):
        for name in (argument.listed.of, argument.listed.instead_of, argument.name):
            made[name] = _control(form, script, shown[name])
        form.page.tool("📒", _fill_id(form, script, argument), t("All values that there are")).visible = False


def _fill_id(form: Form, script: Script, argument: Argument) -> str:
    return _id(form, script.title, f"{argument.name}_fill")


def _control(form: Form, script: Script, argument: Argument) -> Component:
    made = control(argument, _id(form, script.title, argument.name))
    return form.add(made, key=None if _is_note(argument) else _key(form, script, argument))


def _key(form: Form, script: Script, argument: Argument) -> str:
    """Its name in ui-config.json, A1111's: `customscript/xyz_grid.py/txt2img/X type`."""
    file = getattr(sys.modules.get(type(script).__module__), "__file__", None)
    source = Path(file).name if file and type(script).__module__.startswith("sdwebui_scripts.") else script.title
    label = argument.label or argument.name
    key = f"customscript/{source}/{form.kind}/{label}"
    return f"{key} ({argument.name})" if key in form.kept else key


def _wire_listed(form: Form, script: Script, argument: Argument, controls: dict[str, Component]) -> None:
    """Choices in place of the text, as long as the other argument's value has any."""
    listed = argument.listed
    assert listed is not None
    chosen, text, names = controls[listed.of], controls[listed.instead_of], controls[argument.name]
    switch = controls.get(listed.unless)
    fill = form.page.components[_fill_id(form, script, argument)]

    services = form.page.services
    there = bool(script.listed(argument.name, chosen.value, form.kind, services.catalog)) if chosen.value else False
    fill.visible, names.visible = there, there and not (switch is not None and switch.value)
    text.visible = not names.visible

    async def choices(value: str, request: gr.Request) -> Sequence[str]:
        services = form.page.services_for(request)
        try:
            return await services.off_loop(script.listed, argument.name, value, form.kind, services.catalog)
        except SdWebUIError:  # a value of an older version, that a browser kept
            return ()

    async def show(value: str, as_text: bool, request: gr.Request) -> tuple[Any, Any, Any]:
        found = await choices(value, request)
        there = bool(found) and not as_text
        return (
            gr.update(choices=list(found), visible=there),
            gr.update(visible=not there),
            gr.update(visible=bool(found)),
        )

    async def everything(value: str, as_text: bool, request: gr.Request) -> tuple[Any, Any]:
        found = await choices(value, request)
        if as_text:
            return gr.skip(), ", ".join(f'"{one}"' if "," in one else one for one in found)
        return list(found), gr.skip()

    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
    asking = [chosen, switch if switch is not None else gr.State(False)]
    for one in [chosen] if switch is None else [chosen, switch]:
        one.change(show, asking, [names, text, fill], **quiet)  # type: ignore[attr-defined]
    chosen.input(list, None, names, **quiet)  # type: ignore[attr-defined]
    fill.click(everything, asking, [names, text], **quiet)  # type: ignore[attr-defined]


def _id(form: Form, title: str, part: str = "") -> str:
    name = "".join(letter if letter.isalnum() else "_" for letter in title.lower())
    return form.id(f"script_{name}_{part}" if part else f"script_{name}")


def asked(argument: Argument) -> bool:
    """Whether the page has a control for it: notes are shown only, and what it cannot say keeps its default."""
    return argument.default is not None or bool(argument.choices) or argument.listed is not None


def control(argument: Argument, id: str) -> Component:
    """What asks for `argument`. Labels and choices are the script's own words, translated where they are known."""
    label, default = t(argument.label) if argument.label else "", argument.default
    if argument.listed is not None:
        return gr.Dropdown(
            [], value=[], multiselect=True, allow_custom_value=True, label=label, elem_id=id, visible=False
        )  # fmt: skip
    if argument.choices:
        return _choice(argument, label, id)
    if isinstance(default, bool):
        return gr.Checkbox(default, label=label, elem_id=id, container=False, elem_classes=["bare"])
    if isinstance(default, (int, float)):
        whole = isinstance(default, int)
        if argument.minimum is not None and argument.maximum is not None:
            step = argument.step or (1 if whole else 0.01)
            return gr.Slider(argument.minimum, argument.maximum, default, step=step, label=label, elem_id=id)
        return gr.Number(default, label=label, precision=0 if whole else None, elem_id=id)
    if isinstance(default, str) and not label:
        return gr.Markdown(t(default), elem_id=id)
    if isinstance(default, str):
        many = any(word in argument.name for word in LONG)
        return gr.Textbox(default, label=label, lines=5 if many else 1, max_lines=20, elem_id=id)
    return gr.Textbox(json.dumps(default), label=label, elem_id=id)


def _choice(argument: Argument, label: str, id: str) -> Component:
    offered, default = list(argument.choices or ()), argument.default
    choices = [(t(one), one) for one in offered]
    several = isinstance(default, (list, tuple))
    if several:
        return gr.CheckboxGroup(choices, value=list(default), label=label, elem_id=id)
    if isinstance(default, int):
        return gr.Dropdown(choices, type="index", value=offered[default], label=label, elem_id=id)
    if len(choices) <= FEW:
        return gr.Radio(choices, value=default, label=label, elem_id=id)
    return gr.Dropdown(choices, value=default, label=label, elem_id=id)


def _writer(title: str, declared: Sequence[Argument]) -> Any:
    def write(body: Body, chosen: str, *values: Any) -> None:
        if chosen != title:
            return
        left = iter(values)
        body["script_name"] = title
        body["script_args"] = [spoken(one, next(left)) if asked(one) else one.default for one in declared]

    return write


def spoken(argument: Argument, value: Any) -> Any:
    """A control's value as the wire has it."""
    default = argument.default
    if _is_note(argument):
        return default
    if argument.listed is not None:
        return value or None
    plain = isinstance(default, (bool, int, float, str)) or argument.choices is not None
    if plain:
        return default if value is None else value
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return default


def _is_note(argument: Argument) -> bool:
    return argument.choices is None and isinstance(argument.default, str) and not argument.label
