"""What the components of a generation tab say in a request; defaults from ui-config.json; what browsers remember."""

from __future__ import annotations

import asyncio
import errno
import json

import gradio as gr
import pytest
from PIL import Image

from sdwebui_api.api.generation_schema import Txt2ImgBody
from sdwebui_api.catalog.checkpoints import CheckpointFile
from sdwebui_api.prompting.counting import count_tokens
from sdwebui_api.webui import opening, remembered
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.generation import gallery
from sdwebui_api.webui.generation.control_units import RangedSlider
from sdwebui_api.webui.generation.form import Form
from sdwebui_api.webui.generation.upscaling import Upscaling
from sdwebui_api.webui.page_jobs import PageJobs
from sdwebui_api.webui.tabs import txt2img
from sdwebui_api.webui.ui_config import UiConfig
from tests.support.fakes import fake_services


class Tab:
    """A built txt2img tab with the values of its components."""

    def __init__(self, folder, monkeypatch):
        forms, upscalings = [], []
        monkeypatch.setattr(Upscaling, "wire", lambda one: (upscalings.append(one), WIRE_UPSCALING(one)))
        monkeypatch.setattr(remembered, "wire", lambda form: (forms.append(form), wire(form)))
        wire = WIRE
        self.page = PageBuilder(fake_services(folder), PageJobs(folder), UiConfig(folder / "ui-config.json"))
        with gr.Blocks(analytics_enabled=False) as self.page.blocks:
            txt2img.build(self.page)
        self.form: Form = forms[0]
        self.upscaling: Upscaling = upscalings[0]
        self.values = {component: component.value for component in self.form.inputs}

    def set(self, **values):
        for name, value in values.items():
            self.values[self.page.components[f"txt2img_{name}"]] = value

    def body(self):
        return Txt2ImgBody.model_validate(self.form.body(self.values))


WIRE, WIRE_UPSCALING = remembered.wire, Upscaling.wire


@pytest.fixture
def tab(tmp_path, monkeypatch):
    return Tab(tmp_path, monkeypatch)


def test_an_untouched_tab_asks_for_a1111s_defaults(tab):
    body = tab.body()
    assert (body.steps, body.sampler_name, body.scheduler, body.cfg_scale) == (20, "DPM++ 2M", "Automatic", 7)
    assert (body.seed, body.n_iter, body.batch_size) == (-1, 1, 1)
    assert body.save_images and not body.enable_hr and body.refiner_checkpoint is None and body.subseed == -1


def test_folded_parts_count_only_when_they_are_on(tab):
    tab.set(hr_scale=3, subseed=7, subseed_strength=0.5, switch_at=0.3, checkpoint="tiny.safetensors")
    untouched = tab.body()
    assert not untouched.enable_hr and untouched.subseed == -1 and untouched.refiner_switch_at is None
    tab.set(enable_hr=True, seed_extra=True, enable_refiner=True)
    body = tab.body()
    assert body.enable_hr and body.hr_scale == 3 and body.denoising_strength == 0.7
    assert body.hr_sampler_name == "Use same sampler"
    assert (body.subseed, body.subseed_strength) == (7, 0.5)
    assert (body.refiner_checkpoint, body.refiner_switch_at) == ("tiny.safetensors", 0.3)


class TestUpscaling:
    """✨ below the pictures."""

    @pytest.fixture
    def pictures(self, tmp_path):
        paths = []
        for name, size in (("grid", (32, 16)), ("first", (24, 16)), ("second", (16, 40))):
            paths.append(tmp_path / f"{name}.png")
            Image.new("RGB", size).save(paths[-1])
        return paths

    def looking_at(self, tab, pictures, shown):
        results, run = tab.page.results["txt2img"], tab.upscaling.run
        texts = [f"a\nSteps: 1, Seed: {seed}, Variation seed: 9" for seed in range(len(pictures))]
        gallery = [(str(path), None) for path in pictures]
        looking = {results.gallery: gallery, results.infotexts: texts, results.shown: shown, run.job_id: None}
        return {**tab.values, **looking}

    def test_it_asks_for_the_hires_pass_of_the_picture(self, tab, pictures):
        tab.set(hr_scale=3, batch_count=4, batch_size=2, width=512)
        values = self.looking_at(tab, pictures, 2)
        place = tab.upscaling._place(values, None)
        body = Txt2ImgBody.model_validate(tab.upscaling._body(tab.page.services, values, place.pictures[place.index]))
        assert body.enable_hr and body.hr_scale == 3 and (body.n_iter, body.batch_size) == (1, 1)
        assert (body.width, body.height, body.seed, body.subseed) == (16, 40, 2, 9)
        services = tab.page.services
        request = services.resolver("txt2img", body.model_dump(), body.model_fields_set, services.options.snapshot())
        assert request.hires.first_picture.size == (16, 40)

    def test_what_comes_takes_its_place(self, tab, pictures):
        jobs, services = tab.page.jobs, tab.page.services
        values = self.looking_at(tab, pictures, 1)
        place = tab.upscaling._place(values, None)

        async def run():
            body = tab.upscaling._body(services, values, place.pictures[place.index]) | {"steps": 1}
            job = await jobs.start(services, "txt2img", body, None, place)
            await asyncio.wait_for(job.ended.wait(), 60)
            return job

        job = asyncio.run(run())
        assert job.error is None and job.shown == 1
        assert [picture.path for picture in job.pictures][::2] == pictures[::2] and len(job.pictures) == 3
        assert job.pictures[1].path not in pictures
        services.runner.drain(5)


def test_a_full_disk_is_told_where_pictures_are_copied(tab, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    picture = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    monkeypatch.setattr(gallery.shutil, "copyfile", full)
    monkeypatch.setattr(gallery.zipfile, "ZipFile", full)
    for copy in (
        lambda: gallery._keep(tab.page.services, str(picture)),
        lambda: gallery._zip([picture], tmp_path / "cache"),
    ):
        with pytest.raises(gr.Error, match=r"could not be saved in .*: the disk is full"):
            copy()
    assert not list((tmp_path / "cache").iterdir())


def test_what_the_tab_asks_for_can_be_resolved(tab):
    services = tab.page.services
    tab.set(enable_hr=True)
    body = tab.body()
    values = body.model_dump()
    request = services.resolver("txt2img", values, body.model_fields_set, services.options.snapshot())
    assert request.hires is not None and request.hires.scale == 2 and request.hires.upscaler == "Latent"


def test_a_range_that_the_browser_has_not_heard_of_yet_refuses_nothing():
    slider = RangedSlider(64, 2048, 512)  # as the first answer to a new page makes it
    assert slider.preprocess(-1) == -1
    assert slider.get_config()["name"] == slider.get_block_name() == "slider"


def test_defaults_come_from_the_file_and_odd_ones_are_left_out(tmp_path, monkeypatch):
    stored = {
        "txt2img/Sampling steps/value": 33, "txt2img/Sampling steps/maximum": 40, "txt2img/CFG Scale/value": "much",
        "txt2img/Width/value": 99999, "txt2img/Hires. fix/value": True, "txt2img/Sampling method/value": "None such",
        "txt2img/Batch count/visible": False,
    }  # fmt: skip
    (tmp_path / "ui-config.json").write_text(json.dumps(stored))
    tab = Tab(tmp_path, monkeypatch)
    body = tab.body()
    assert (body.steps, body.cfg_scale, body.sampler_name, body.enable_hr) == (33, 7, "DPM++ 2M", True)
    assert body.width < 99999
    assert tab.page.components["txt2img_steps"].maximum == 40
    assert tab.page.components["txt2img_batch_count"].visible is False


def test_new_defaults_are_written_beside_what_the_file_holds(tmp_path, monkeypatch):
    (tmp_path / "ui-config.json").write_text('{"other/Thing/value": 1}')
    tab = Tab(tmp_path, monkeypatch)
    tab.page.defaults.save({"txt2img/Sampling steps": 12})
    assert json.loads((tmp_path / "ui-config.json").read_text()) == {
        "other/Thing/value": 1, "txt2img/Sampling steps/value": 12
    }  # fmt: skip
    assert Tab(tmp_path, monkeypatch).body().steps == 12


def test_an_unreadable_file_of_defaults_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "ui-config.json").write_text("{broken")
    assert Tab(tmp_path, monkeypatch).body().steps == 20


def test_a_browser_gets_back_what_still_fits(tab):
    kept = tab.form.kept
    stored = {
        "txt2img/Sampling steps": 44, "txt2img/Prompt": "a cat", "txt2img/Sampling method": "gone",
        "txt2img/Width": -5, "txt2img/Styles": ["no such style"], "unknown": 1, "txt2img/Extra": "yes",
    }  # fmt: skip
    found = remembered.restored(kept, stored, {})
    assert {component.elem_id: value for component, value in found.items()} == {
        "txt2img_steps": 44, "txt2img_prompt": "a cat"
    }  # fmt: skip
    assert remembered.restored(kept, "nonsense", {}) == {}


def test_lists_are_asked_again(tab, tmp_path):
    page = tab.page
    offered, _ = opening.known(page, page.services)
    names = {component.elem_id: [value for _, value in rows] for component, rows in offered.items()}
    assert "Latent" in names["txt2img_hr_upscaler"] and names["txt2img_checkpoint"]
    assert names["txt2img_hr_checkpoint"][0] == "Use same checkpoint"


def test_a_checkpoint_stays_chosen_when_its_hash_becomes_known(tab, monkeypatch):
    def listed():
        offered, _ = opening.known(tab.page, tab.page.services)
        return {one.elem_id: rows for one, rows in offered.items()}["txt2img_checkpoint"]

    monkeypatch.setattr(CheckpointFile, "known_sha256", None)
    before = listed()
    monkeypatch.setattr(CheckpointFile, "known_sha256", "0123456789" * 6)
    (shown, value), *_ = listed()
    assert shown == f"{before[0][0]} [0123456789]" and value == before[0][1]


class Letters:
    """A token per letter."""

    bos_id, eos_id, pad_id, comma_id = 1, 2, 0, ord(",")

    def tokenize(self, text):
        return [ord(letter) for letter in text if letter != " "]


@pytest.mark.parametrize(
    ("prompt", "used", "room"),
    [
        ("", 0, 75),
        ("abc", 3, 75),
        ("(abc:1.2)", 3, 75),
        ("abc <lora:x:1>", 3, 75),
        ("[a:bcde:5]", 4, 75),
        ("ab AND cdef", 4, 75),
        ("a BREAK b", 76, 150),
        ("x" * 80, 80, 150),
        ("(" * 100_000, 100_000, 100_050),
    ],
)
def test_tokens_are_counted_as_they_will_be_used(prompt, used, room):
    assert count_tokens(prompt, Letters()) == (used, room)
