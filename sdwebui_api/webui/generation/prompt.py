"""The top of a generation tab: prompts with their token counters, styles, and the buttons that start and stop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from sdwebui_api.api.services import Services
from sdwebui_api.prompting.styles import apply_styles
from sdwebui_api.webui.generation import style_editor
from sdwebui_api.webui.generation.form import Form
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.refusals import refusal
from sdwebui_api.webui.ui_config import written_value

log = logging.getLogger(__name__)


@dataclass
class PromptArea:
    prompt: gr.Textbox
    negative: gr.Textbox
    styles: gr.Dropdown
    generate: gr.Button
    interrupt: gr.Button
    skip: gr.Button
    forever: gr.Checkbox
    tools: gr.Row
    """Other rooms put their small buttons here: `with area.tools:`."""


def build(form: Form) -> PromptArea:
    with gr.Row(elem_id=form.id("toprow"), elem_classes=["toprow"]):
        with gr.Column(scale=6, min_width=320, elem_classes=["prompts"]):
            prompt, used = _prompt(
                form, "prompt", t("Prompt"), t("Prompt (Ctrl+Enter generates, Esc interrupts)"), "Prompt"
            )
            negative, negative_used = _prompt(
                form, "neg_prompt", t("Negative prompt"), t("Negative prompt: what should not be seen"),
                "Negative prompt",
            )  # fmt: skip
        with gr.Column(scale=1, min_width=240, elem_classes=["actions"]):
            generate, interrupt, skip = _buttons(form)
            with gr.Row(elem_classes=["tools"]) as tools:
                form.page.tool("↙️", form.id("paste"), t("Read parameters from the prompt, or from the shown picture"))
                clear = form.page.tool("🗑️", form.id("clear_prompt"), t("Clear both prompts"))
                apply = form.page.tool("📋", form.id("style_apply"), t("Write the chosen styles into the prompts"))
                edit = form.page.tool("🖌️", form.id("style_edit"), t("Save or delete a style"))
                keep = form.page.tool("📌", form.id("keep_defaults"), t("Keep these values as the page's defaults"))
                forever = gr.Checkbox(
                    label=t("Generate forever"), elem_id=form.id("forever"), elem_classes=["bare"], container=False,
                    min_width=120,
                )  # fmt: skip
            styles = form.field(
                "styles",
                gr.Dropdown(
                    style_names(form.page.services),
                    value=[],
                    label=t("Styles"),
                    multiselect=True,
                    elem_id=form.id("styles"),
                ),
                label="Styles",
                infotext="Styles array",
                choices=style_names,
            )
    style_editor.build(form, edit, prompt, negative, styles, style_names)
    clear.click(None, None, [prompt, negative], js="() => ['', '']", show_progress="hidden")
    _count_while_typing(form, prompt, used, styles, negative=False)
    _count_while_typing(form, negative, negative_used, styles, negative=True)
    _wire_styles(form, apply, prompt, negative, styles)
    # The other fields come after this area.
    form.page.when_complete(lambda: _wire_defaults(form, keep))
    return PromptArea(prompt, negative, styles, generate, interrupt, skip, forever, tools)


def style_names(services: Services) -> Sequence[str]:
    return [style.name for style in services.catalog.styles.all()]


def _prompt(form: Form, name: str, label: str, hint: str, infotext: str) -> tuple[gr.Textbox, gr.HTML]:
    field = "prompt" if name == "prompt" else "negative_prompt"
    with gr.Group(elem_classes=["prompt-box"]):
        box = form.field(
            field,
            gr.Textbox(
                label=label, show_label=False, placeholder=hint, lines=3, max_lines=20, elem_id=form.id(name),
                elem_classes=["prompt"], autofocus=False,
            ),
            label=infotext,
            infotext=infotext,
        )  # fmt: skip
        used, room = form.page.services.engine.count_tokens(str(box.value or ""))
        counter = gr.HTML(
            f"{used}/{room}", elem_id=form.id(f"{name}_tokens"), elem_classes=["token-counter"], padding=False
        )
    return box, counter


def _count_while_typing(form: Form, box: gr.Textbox, counter: gr.HTML, styles: gr.Dropdown, *, negative: bool) -> None:
    async def count(text: str, names: list[str], request: gr.Request) -> str:
        services = form.page.services_for(request)
        options = services.options.snapshot()
        if options.disable_token_counters:
            return ""
        if names and options.include_styles_into_token_counters:
            sides = ("", text) if negative else (text, "")
            text = apply_styles(*sides, names, services.catalog.styles.all())[int(negative)]
        used, room = await services.off_loop(services.engine.count_tokens, text)
        return f"{used}/{room}"

    gr.on(
        [box.change, styles.change], count, [box, styles], counter, queue=False, show_progress="hidden",
        trigger_mode="always_last", api_visibility="private",
    )  # fmt: skip


def _buttons(form: Form) -> tuple[gr.Button, gr.Button, gr.Button]:
    page = form.page
    with gr.Row(elem_classes=["generate-box"]):
        generate = page.add(
            gr.Button(t("Generate"), variant="primary", elem_id=form.id("generate"), elem_classes=["generate"])
        )
        interrupt = page.add(gr.Button(t("Interrupt"), variant="stop", visible=False, elem_id=form.id("interrupt")))
        skip = page.add(gr.Button(t("Skip"), visible=False, elem_id=form.id("skip")))
    return generate, interrupt, skip


def _wire_styles(form: Form, apply: gr.Button, prompt: gr.Textbox, negative: gr.Textbox, styles: gr.Dropdown) -> None:
    def write(text: str, negative_text: str, names: list[str], request: gr.Request) -> tuple[str, str, list[str]]:
        known = form.page.services_for(request).catalog.styles.all()
        return *apply_styles(text, negative_text, names or [], known), []

    parts = [prompt, negative, styles]
    apply.click(write, parts, parts, queue=False, show_progress="hidden", api_visibility="private")


def _wire_defaults(form: Form, keep: gr.Button) -> None:
    """The tab's values become those of ui-config.json, for everybody who opens the page (`--cluster`: for the user)."""
    names = list(form.kept)

    async def store(request: gr.Request, *values: Any) -> None:
        services = form.page.services_for(request)
        if services.flags.freeze_settings:
            raise refusal(t("Settings are frozen on this server"))
        try:
            kept = {name: written_value(form.kept[name], one) for name, one in zip(names, values, strict=True)}
            await services.off_loop(form.page.defaults_for(services).save, kept)
        except OSError:
            log.warning("ui-config.json cannot be written", exc_info=True)
            raise refusal(t("The file of defaults cannot be written")) from None
        gr.Info(t("These values are the page's defaults now"))

    inputs = [form.kept[name] for name in names]
    keep.click(store, inputs, None, show_progress="hidden", api_visibility="private")
