"""Pictures from a prompt."""

from __future__ import annotations

import gradio as gr

from sdwebui_api.webui import remembered
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.generation import control_units, gallery, hires, networks, overrides, panel, prompt, scripts
from sdwebui_api.webui.generation.form import Form
from sdwebui_api.webui.generation.results import Results
from sdwebui_api.webui.generation.run import Run
from sdwebui_api.webui.generation.upscaling import Upscaling
from sdwebui_api.webui.localization import t


def build(page: PageBuilder) -> None:
    form = Form(page, "txt2img")
    area = prompt.build(form)
    with gr.Tabs(elem_id="txt2img_extra_tabs"):
        results, seed = _generation(form)
        networks.build(form, results)
    # What makes stores of its own stands outside of the tabs: gradio counts every child of theirs as a tab.
    gallery.wire_seed(form, results, seed)
    run = Run(form, area, results)
    run.wire()
    Upscaling(run).wire()
    remembered.wire(form)


def _generation(form: Form) -> tuple[Results, panel.Seed]:
    with gr.Tab(t("Generation"), id="txt2img_generation"), gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320, elem_id="txt2img_settings", elem_classes=["settings"]):
            seed = _settings(form)
        results = gallery.build(form)
    return results, seed


def _settings(form: Form) -> panel.Seed:
    panel.sampling(form)
    with gr.Row(elem_classes=["compact"]):
        with gr.Column(scale=3, min_width=280):
            size = panel.size(form)
        with gr.Column(scale=2, min_width=180):
            panel.batches(form)
    panel.guidance(form)
    seed = panel.seed(form)
    hires.build(form, size)
    panel.refiner(form)
    overrides.build(form)
    control_units.build(form)
    scripts.build(form)
    return seed
