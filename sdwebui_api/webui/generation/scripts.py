"""The scripts of a generation tab: always-on ones, folded, and one that may be chosen.

Their controls are made of the arguments that they declare.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from sdwebui_api.scripting.arguments import Argument
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
            with gr.Accordion(script.title, open=False, elem_id=_id(form, script.title, "always_on")):
                controls = _controls(form, script.title, declared)
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
            [(t("None"), NONE), *((title, title) for title in titles)], value=NONE, label=t("Script"),
            elem_id=form.id("script"),
        )
    )  # fmt: skip
    rows = {row["name"]: row["args"] for row in services.scripts.rows(form.kind, services.catalog, always_on=False)}
    groups, inputs = [], []
    for script in scripts:
        declared = script.arguments_for(form.kind, services.catalog) if rows.get(script.title.lower()) else ()
        group, controls = _group(form, script.title, declared)
        groups.append(group)
        inputs.append((script.title, declared, controls))
    shown = "({__type__: 'update', visible: one === title})"
    js = f"(title) => {json.dumps(titles)}.map((one) => {shown})"
    chosen.change(None, chosen, groups, js=js, show_progress="hidden")
    for title, declared, controls in inputs:
        form.contribute([chosen, *controls], _writer(title, declared))


def _group(form: Form, title: str, declared: Sequence[Argument]) -> tuple[gr.Column, list[Component]]:
    with gr.Column(visible=False, elem_id=_id(form, title), elem_classes=["more"]) as group:
        return group, _controls(form, title, declared)


def _controls(form: Form, title: str, declared: Sequence[Argument]) -> list[Component]:
    return [form.add(control(one, _id(form, title, one.name))) for one in declared if asked(one)]


def _id(form: Form, title: str, part: str = "") -> str:
    name = "".join(letter if letter.isalnum() else "_" for letter in title.lower())
    return form.id(f"script_{name}_{part}" if part else f"script_{name}")


def asked(argument: Argument) -> bool:
    """Whether the page has a control for it: notes are shown only, and what it cannot say keeps its default."""
    return argument.default is not None or bool(argument.choices)


def control(argument: Argument, id: str) -> Component:
    """What asks for `argument`; labels are the script's own words."""
    label, default = argument.label, argument.default
    if argument.choices:
        return _choice(argument, id)
    if isinstance(default, bool):
        return gr.Checkbox(default, label=label, elem_id=id, container=False, elem_classes=["bare"])
    if isinstance(default, (int, float)):
        whole = isinstance(default, int)
        if argument.minimum is not None and argument.maximum is not None:
            step = argument.step or (1 if whole else 0.01)
            return gr.Slider(argument.minimum, argument.maximum, default, step=step, label=label, elem_id=id)
        return gr.Number(default, label=label, precision=0 if whole else None, elem_id=id)
    if isinstance(default, str) and not label:
        return gr.Markdown(default, elem_id=id)
    if isinstance(default, str):
        many = any(word in argument.name for word in LONG)
        return gr.Textbox(default, label=label, lines=5 if many else 1, max_lines=20, elem_id=id)
    return gr.Textbox(json.dumps(default), label=label, elem_id=id)


def _choice(argument: Argument, id: str) -> Component:
    choices, default, label = list(argument.choices or ()), argument.default, argument.label
    several = isinstance(default, (list, tuple))
    if several:
        return gr.CheckboxGroup(choices, value=list(default), label=label, elem_id=id)
    if isinstance(default, int):
        return gr.Dropdown(choices, type="index", value=choices[default], label=label, elem_id=id)
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
    plain = isinstance(default, (bool, int, float, str)) or argument.choices is not None
    if plain:
        return default if value is None else value
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return default


def _is_note(argument: Argument) -> bool:
    return argument.choices is None and isinstance(argument.default, str) and not argument.label
