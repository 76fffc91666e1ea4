"""The second, larger pass of txt2img."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components import Component

from sdwebui_api.api.services import Services
from sdwebui_api.catalog.upscalers import HiresUpscalers
from sdwebui_api.webui.generation import panel
from sdwebui_api.webui.generation.form import Body, Form
from sdwebui_api.webui.localization import t

SAME_SAMPLER, SAME_SCHEDULE, SAME_CHECKPOINT = "Use same sampler", "Use same scheduler", "Use same checkpoint"


def build(form: Form, size: panel.Size) -> None:
    on = form.add(
        gr.Checkbox(label=t("Hires. fix"), elem_id=form.id("enable_hr"), container=False, elem_classes=["bare"]),
        label="Hires. fix",
    )
    with gr.Column(visible=bool(on.value), elem_id=form.id("hires_fix"), elem_classes=["more"]) as more:
        parts = {**_scaling(form), **_models(form), **_prompts(form)}
        note = gr.HTML("", elem_id=form.id("hires_size"), elem_classes=["note"])
    on.change(None, on, more, js=panel.SHOW, show_progress="hidden")
    _tell_size(on, size, parts, note)
    names = list(parts)

    def write(body: Body, wanted: bool, *values: Any) -> None:
        if wanted:
            body |= {"enable_hr": True, **dict(zip(names, values, strict=True))}

    form.contribute([on, *parts.values()], write)


def upscaler_names(services: Services) -> list[str]:
    return list(HiresUpscalers(services.catalog.upscalers))


def _scaling(form: Form) -> dict[str, Component]:
    with gr.Row(elem_classes=["compact"]):
        upscaler = form.add(
            gr.Dropdown(
                upscaler_names(form.page.services),
                value="Latent",
                label=t("Upscaler"),
                elem_id=form.id("hr_upscaler"),
                min_width=120,
            ),
            label="Upscaler",
            infotext="Hires upscaler",
            choices=upscaler_names,
        )
        steps = form.add(
            gr.Slider(0, 150, 0, step=1, label=t("Hires steps"), elem_id=form.id("hires_steps"), min_width=140),
            label="Hires steps",
            infotext="Hires steps",
        )
        strength = form.add(
            gr.Slider(
                0, 1, 0.7, step=0.01, label=t("Denoising strength"), elem_id=form.id("denoising_strength"),
                min_width=140,
            ),
            label="Denoising strength",
            infotext="Denoising strength",
        )  # fmt: skip
    with gr.Row(elem_classes=["compact"]):
        scale = form.add(
            gr.Slider(1, 4, 2, step=0.05, label=t("Upscale by"), elem_id=form.id("hr_scale"), min_width=140),
            label="Upscale by",
            infotext="Hires upscale",
        )
        across = _side(form, "hr_resize_x", t("Resize width to"), "Resize width to", "Hires resize-1")
        down = _side(form, "hr_resize_y", t("Resize height to"), "Resize height to", "Hires resize-2")
    return {
        "hr_upscaler": upscaler,
        "hr_second_pass_steps": steps,
        "denoising_strength": strength,
        "hr_scale": scale,
        "hr_resize_x": across,
        "hr_resize_y": down,
    }


def _side(form: Form, name: str, shown: str, label: str, infotext: str) -> gr.Slider:
    slider = gr.Slider(0, panel.LARGEST_SIDE, 0, step=8, label=shown, elem_id=form.id(name), min_width=140)
    return form.add(slider, label=label, infotext=infotext)


def _models(form: Form) -> dict[str, Component]:
    """What the second pass does with another model, sampler or schedule."""
    services = form.page.services
    with gr.Row(elem_classes=["compact"]):
        checkpoint = form.add(
            gr.Dropdown(
                _checkpoints(services),
                value=SAME_CHECKPOINT,
                label=t("Hires checkpoint"),
                elem_id=form.id("hr_checkpoint"),
            ),
            label="Hires checkpoint",
            infotext="Hires checkpoint",
            choices=_checkpoints,
        )
        sampler = form.add(
            gr.Dropdown(
                _samplers(services), value=SAME_SAMPLER, label=t("Hires sampling method"),
                elem_id=form.id("hr_sampler"),
            ),
            label="Hires sampling method",
            infotext="Hires sampler",
            choices=_samplers,
        )  # fmt: skip
        schedule = form.add(
            gr.Dropdown(
                panel.same_or(panel.schedule_names(services), SAME_SCHEDULE), value=SAME_SCHEDULE,
                label=t("Hires schedule type"), elem_id=form.id("hr_scheduler"),
            ),
            label="Hires schedule type",
            infotext="Hires schedule type",
        )  # fmt: skip
    return {"hr_checkpoint_name": checkpoint, "hr_sampler_name": sampler, "hr_scheduler": schedule}


def _checkpoints(services: Services) -> list[tuple[str, str]]:
    return panel.same_or(panel.checkpoint_titles(services), SAME_CHECKPOINT)


def _samplers(services: Services) -> list[tuple[str, str]]:
    return panel.same_or(panel.sampler_names(services), SAME_SAMPLER)


def _prompts(form: Form) -> dict[str, Component]:
    with gr.Accordion(t("Prompts of the second pass"), open=False, elem_id=form.id("hires_prompts")):
        prompt = form.add(
            gr.Textbox(
                label=t("Hires prompt"), placeholder=t("Empty: as in the first pass"), lines=2,
                elem_id=form.id("hires_prompt"), elem_classes=["prompt"],
            ),
            label="Hires prompt",
            infotext="Hires prompt",
        )  # fmt: skip
        negative = form.add(
            gr.Textbox(
                label=t("Hires negative prompt"), placeholder=t("Empty: as in the first pass"), lines=2,
                elem_id=form.id("hires_neg_prompt"), elem_classes=["prompt"],
            ),
            label="Hires negative prompt",
            infotext="Hires negative prompt",
        )  # fmt: skip
    return {"hr_prompt": prompt, "hr_negative_prompt": negative}


def _tell_size(on: gr.Checkbox, size: panel.Size, parts: dict[str, Component], note: gr.HTML) -> None:
    """What the second pass will be, while the sliders move. The text is A1111's: from … to …."""
    inputs = [on, size.width, size.height, parts["hr_scale"], parts["hr_resize_x"], parts["hr_resize_y"]]
    js = """(on, w, h, scale, x, y) => {
        let to = [Math.floor(w * scale), Math.floor(h * scale)];
        if (x && y) to = [x, y];
        else if (x) to = [x, Math.floor(h * x / w)];
        else if (y) to = [Math.floor(w * y / h), y];
        return on ? `${w} × ${h} → <b>${to[0]} × ${to[1]}</b>` : '';
    }"""
    gr.on([part.change for part in inputs], None, inputs, note, js=js, show_progress="hidden")  # type: ignore[attr-defined]
