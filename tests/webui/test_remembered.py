"""What of the page comes back after a reload, and what its scripts and ControlNet units say, with the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from gradio.components import Component

from sdwebui_api.scripting.extensions import Switches, find_extensions, script_files
from sdwebui_api.scripting.host import ScriptHost
from sdwebui_api.scripting.xyz.table import axes_for
from sdwebui_api.webui import opening, remembered
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.generation.form import Form
from sdwebui_api.webui.localization.texts import load_texts
from sdwebui_api.webui.page import build_page
from sdwebui_api.webui.page_jobs import PageJobs
from sdwebui_api.webui.ui_config import UiConfig, fits, written_value
from tests.support.fakes import fake_services
from tests.support.server import ROOT


class Built:
    """The whole page with the scripts and extensions that ship, and the forms of its generation tabs."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        services = fake_services(folder)
        extensions = find_extensions([ROOT / "extensions"], None, Switches())
        services.scripts = ScriptHost(script_files([ROOT], extensions), extensions)
        services.scripts.load()
        self.page = PageBuilder(services, PageJobs(folder), UiConfig(folder / "ui-config.json"))
        self.forms: dict[str, Form] = {}
        wire = remembered.wire
        monkeypatch.setattr(remembered, "wire", lambda form: (self.forms.update({form.kind: form}), wire(form)))
        build_page(self.page)

    def kept(self) -> set[Component]:
        return {component for _, kept in self.page.remembered for component in kept.values()}

    def component(self, id: str) -> Component:
        return self.page.components[id]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Built(tmp_path_factory.mktemp("built"), monkeypatch)


ONCE = (gr.Image, gr.ImageEditor, gr.File, gr.Markdown, gr.State)
"""Pictures and files are not kept, and what only shows something has nothing to keep."""
MOMENTS = ("img2img_mode", "_override_settings")
"""What belongs to the picture that is looked at."""


@pytest.mark.parametrize("kind", ["txt2img", "img2img"])
def test_every_control_of_a_generation_tab_comes_back(built: Built, kind: str) -> None:
    forgotten = {
        component.elem_id for component in built.forms[kind].inputs - built.kept()
        if not isinstance(component, ONCE) and not str(component.elem_id).endswith(MOMENTS)
    }  # fmt: skip
    assert forgotten == set()


def test_every_control_that_the_file_of_defaults_knows_comes_back(built: Built) -> None:
    known = built.page.defaults.components
    assert set(known.values()) == built.kept()
    tabs = {key.partition("/")[0] for key in known}
    assert tabs == {"txt2img", "img2img", "customscript", "extras", "modelmerger", "train", "beautiful_prompt"}
    for name in ("txt2img/X type", "txt2img/X values", "txt2img/X values (x_values_dropdown)", "img2img/Y type"):
        assert f"customscript/xyz_grid.py/{name}" in known


def test_what_each_kind_of_control_can_hold(built: Built) -> None:
    with gr.Blocks(analytics_enabled=False):
        index = gr.Dropdown(["a", "b"], type="index")
        boxes = gr.CheckboxGroup(["a", "b"])
        free = gr.Dropdown(["a"], multiselect=True, allow_custom_value=True)
    fill = built.component("img2img_inpainting_fill")
    assert fits(fill, 2) and not fits(fill, 4) and not fits(fill, "original")
    assert fits(boxes, ["b"]) and not fits(boxes, ["c"])
    assert fits(free, ["anything"]) and not fits(free, [3])
    assert written_value(index, 1) == "b" and written_value(boxes, ["a"]) == ["a"]


def test_a_unit_opens_with_its_preprocessors_sliders(built: Built) -> None:
    module, low = (built.component(f"txt2img_controlnet_0_{name}") for name in ("module", "threshold_a"))

    def opened(value: float) -> dict[str, object]:
        found: dict[Component, dict[str, object]] = {}
        for follow in built.page.following:
            found |= follow(built.page.services, {module: "canny", low: value})
        return found[low]

    assert (opened(33)["value"], opened(33)["maximum"], opened(33)["visible"]) == (33, 255, True)
    assert opened(-1)["value"] == opened(999)["value"] == 100


@pytest.mark.parametrize("kind", ["txt2img", "img2img"])
def test_a_plot_lists_the_values_of_its_axes(built: Built, kind: str) -> None:
    services = built.page.services
    plot = services.scripts.find(kind, "X/Y/Z plot")
    for axis in axes_for(kind):
        listed = plot.listed("x_values_dropdown", axis.label, kind, services.catalog)
        assert all(isinstance(one, str) for one in listed) and bool(listed) <= (axis.choices is not None), axis.label
    assert "Euler a" in plot.listed("x_values_dropdown", "Sampler", kind, services.catalog)
    titles = [file.known_title for file in services.catalog.checkpoints.all()]
    assert sorted(plot.listed("x_values_dropdown", "Checkpoint name", kind, services.catalog)) == sorted(titles)
    assert plot.listed("x_values_dropdown", "Seed", kind, services.catalog) == ()


def test_values_that_were_chosen_reach_the_plot(built: Built) -> None:
    form = built.forms["txt2img"]
    values = {component: component.value for component in form.inputs}
    chosen = {"script": "X/Y/Z plot", "x_type": "Sampler", "x_values_dropdown": ["Euler", "Heun"]}
    for name, value in chosen.items():
        id = name if name == "script" else f"script_x_y_z_plot_{name}"
        values[built.component(f"txt2img_{id}")] = value
    body = form.body(values)
    assert body["script_args"][:6] == ["Sampler", "", ["Euler", "Heun"], "Nothing", "", None]


def test_our_scripts_speak_chinese(built: Built) -> None:
    """Names of samplers, files and models are the same in every language."""
    names = {row["name"] for row in built.page.services.sampler_rows}
    names |= {row["label"] for row in built.page.services.schedule_rows}
    names |= {row.name for row in built.page.services.catalog.upscalers.rows()}
    names |= {"phrase-grammar", "emoji-grammar", "ControlNet", "BeautifulPrompt", "Lanczos", "Nearest"}
    table, missing = load_texts().tables["zh_CN"], set()
    for kind in ("txt2img", "img2img"):
        for script in (one for on in (True, False) for one in built.page.services.scripts.offered(kind, always_on=on)):
            arguments = script.arguments_for(kind, built.page.services.catalog)
            notes = [one.default for one in arguments if not one.label and isinstance(one.default, str)]
            choices = [choice for one in arguments for choice in one.choices or ()]
            missing |= {script.title, *notes, *choices, *(one.label for one in arguments if one.label)}
    details = built.page.services.control.module_list()["module_detail"].values()
    missing |= {slider["name"] for detail in details for slider in detail["sliders"] if slider}
    missing |= set(built.page.services.control.control_types())
    assert {one for one in missing - names - set(table) if not one.startswith("ControlNet Unit")} == set()


def test_the_page_opens_with_what_was_kept(built: Built) -> None:
    """What `opening` tells speaks of components that it said it would."""
    page = built.page
    told = {*opening.shown(page), *built.kept()}
    for follow in page.following:
        assert set(follow(page.services, {})) <= told
