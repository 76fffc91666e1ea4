"""Scripts and ControlNet units on the generation tabs: what their controls become in a request."""

from __future__ import annotations

import base64
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from sdwebui_api.scripting.arguments import Argument
from sdwebui_api.scripting.hooks import Script
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.generation import control_units, scripts
from sdwebui_api.webui.generation.form import Form
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.page_jobs import PageJobs
from sdwebui_api.webui.ui_config import UiConfig
from tests.support.fakes import fake_services


class Plot(Script):
    title = "Plot it"
    args = (
        Argument("hint", "Read *this* first"),
        Argument("axis", "Steps", "Axis", choices=("Nothing", "Steps")),
        Argument("listed", None, "Listed", choices=()),
        Argument("sides", ("left",), "Sides", choices=("left", "right")),
        Argument("loops", 4, "Loops", 1, 32, 1),
        Argument("strength", 0.5, "Strength", 0, 1, 0.01),
        Argument("prompts", "", "Prompts"),
        Argument("on", True, "On"),
        Argument("table", [[1, 2]], "Table"),
    )


class Panel:
    """A form with one part in it, and the values of its components by elem_id."""

    def __init__(self, folder, part, kind="txt2img"):
        services = fake_services(folder)
        services.scripts.add(Plot())
        self.page = PageBuilder(services, PageJobs(folder), UiConfig(folder / "ui-config.json"))
        self.form = Form(self.page, kind)
        with gr.Blocks(analytics_enabled=False) as self.page.blocks:
            part.build(self.form)
        self.values = {component: component.value for component in self.form.inputs}

    def set(self, **values):
        for name, value in values.items():
            self.values[self.page.components[f"{self.form.kind}_{name}"]] = value

    def body(self):
        return self.form.body(self.values)


@pytest.mark.parametrize("kind", ["txt2img", "img2img"])
def test_a_chosen_script_gets_all_its_arguments_in_order(tmp_path, kind):
    panel = Panel(tmp_path, scripts, kind)
    assert "script_name" not in panel.body()
    panel.set(script="Plot it", script_plot_it_loops=7, script_plot_it_prompts="a\nb", script_plot_it_table="[[3]]")
    body = panel.body()
    assert body["script_name"] == "Plot it"
    assert body["script_args"] == ["Read *this* first", "Steps", None, ["left"], 7, 0.5, "a\nb", True, [[3]]]
    services = panel.page.services
    read = services.scripts.read(kind, services.catalog, body["script_name"], body["script_args"], {})
    assert read.script.args.loops == 7


def test_an_enabled_unit_is_sent_whole_and_others_are_not(tmp_path):
    picture = tmp_path / "edge.png"
    Image.new("RGB", (8, 8)).save(picture)
    panel = Panel(tmp_path, control_units)
    assert "alwayson_scripts" not in panel.body()
    panel.set(controlnet_1_enable=True, controlnet_1_image=str(picture), controlnet_1_module="canny")
    panel.set(controlnet_1_weight=0.6, controlnet_1_guidance_end=0.8, controlnet_1_control_mode=2)
    (unit,) = panel.body()["alwayson_scripts"]["controlnet"]["args"]
    assert base64.b64decode(unit["image"]) == Path(picture).read_bytes()
    assert (unit["module"], unit["weight"], unit["guidance_end"], unit["control_mode"]) == ("canny", 0.6, 0.8, 2)
    assert (unit["model"], unit["resize_mode"], unit["processor_res"]) == ("None", 1, -1)


def test_the_sliders_are_the_preprocessors(tmp_path):
    details = fake_services(tmp_path).control.module_list()["module_detail"]
    resolution, low, high = control_units.slider_updates(details["canny"], with_resolution=True)
    assert (low["label"], low["value"], high["value"]) == (t("Low Threshold"), 100, 200)
    assert resolution["visible"] and resolution["value"] == 512
    assert [one["visible"] for one in control_units.slider_updates(None, with_resolution=False)] == [False] * 3
