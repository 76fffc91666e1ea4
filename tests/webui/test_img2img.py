"""img2img's tab: what its pictures, masks and sizes become in a request."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from sdwebui_api.errors import BadRequest
from sdwebui_api.webui import remembered
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.generation.batch_run import Beside, batch_files, body_of
from sdwebui_api.webui.page_jobs import PageJobs
from sdwebui_api.webui.tabs import img2img
from sdwebui_api.webui.ui_config import UiConfig
from tests.support.fakes import fake_services


class Tab:
    """The built tab with the values of its components, by elem_id."""

    def __init__(self, folder, monkeypatch, *flags):
        forms, wire = [], remembered.wire
        monkeypatch.setattr(remembered, "wire", lambda form: (forms.append(form), wire(form)))
        self.page = PageBuilder(fake_services(folder, *flags), PageJobs(folder), UiConfig(folder / "ui-config.json"))
        with gr.Blocks(analytics_enabled=False) as self.page.blocks:
            img2img.build(self.page)
        self.form = forms[0]
        self.values = {component: component.value for component in self.form.inputs}

    def set(self, **values):
        for name, value in values.items():
            self.values[self.page.components[name]] = value

    def body(self):
        return self.form.body(self.values)


@pytest.fixture
def tab(tmp_path, monkeypatch):
    return Tab(tmp_path, monkeypatch)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "in.png"
    Image.new("RGB", (96, 64), "blue").save(path)
    return str(path)


def drawing(box=(10, 20, 30, 40)):
    background, layer = Image.new("RGBA", (96, 64), "blue"), Image.new("RGBA", (96, 64))
    if box:
        ImageDraw.Draw(layer).rectangle(box, fill="white")
    return {"background": background, "layers": [layer], "composite": Image.alpha_composite(background, layer)}


def opened(text):
    return Image.open(BytesIO(base64.b64decode(text)))


def test_the_whole_picture_is_sent_as_it_was_uploaded(tab, picture):
    tab.set(img2img_image=picture)
    body = tab.body()
    assert base64.b64decode(body["init_images"][0]) == Path(picture).read_bytes()
    assert "mask" not in body and "mask_blur" not in body and "inpainting_fill" not in body


def test_a_drawn_mask_covers_what_was_drawn_and_the_picture_stays(tab):
    tab.set(img2img_mode="inpaint", img2maskimg=drawing(), img2img_mask_blur=8)
    body = tab.body()
    assert opened(body["mask"]).getbbox() == (10, 20, 31, 41)
    assert opened(body["init_images"][0]).convert("RGB").getcolors() == [(96 * 64, (0, 0, 255))]
    assert (body["mask_blur"], body["inpainting_fill"], body["inpaint_full_res"]) == (8, 1, False)


def test_a_sketch_is_part_of_the_picture(tab):
    tab.set(img2img_mode="sketch", img2img_sketch=drawing())
    body = tab.body()
    assert opened(body["init_images"][0]).convert("RGB").getpixel((20, 30)) == (255, 255, 255)
    assert "mask" not in body
    tab.set(img2img_mode="inpaint_sketch", inpaint_sketch=drawing())
    assert opened(tab.body()["mask"]).getbbox() == (10, 20, 31, 41)


def test_an_uploaded_mask_goes_as_it_is(tab, picture, tmp_path):
    mask = tmp_path / "mask.png"
    Image.new("L", (96, 64), 255).save(mask)
    tab.set(img2img_mode="inpaint_upload", img_inpaint_base=picture, img_inpaint_mask=str(mask))
    assert base64.b64decode(tab.body()["mask"]) == mask.read_bytes()


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        ("img2img", {}),
        ("inpaint", {}),
        ("inpaint", {"img2maskimg": drawing(box=None)}),
        ("inpaint_upload", {}),
    ],
)
def test_what_is_missing_is_said(tab, mode, values):
    tab.set(img2img_mode=mode, **values)
    with pytest.raises(BadRequest, match="yet"):
        tab.body()


def test_a_factor_sets_both_sides(tab, picture):
    tab.set(img2img_image=picture, img2img_scale=1.5)
    body = tab.body()
    assert (body["width"], body["height"]) == (144, 96)


def test_a_batch_takes_uploads_or_a_folder_in_the_data_directory(tab, picture):
    tab.set(img2img_mode="batch", img2img_batch_upload=[picture])
    assert tab.body()["batch_files"] == [picture] and "init_images" not in tab.body()
    services = tab.page.services
    folder = Path(services.flags.data_dir) / "in"
    folder.mkdir(parents=True)
    with pytest.raises(BadRequest, match="no pictures"):
        batch_files(services, None, "in")
    for name in ("b.png", "a.jpg", "notes.txt"):
        (folder / name).write_bytes(b"x")
    assert [file.name for file in batch_files(services, None, "in")] == ["a.jpg", "b.png"]
    for outside in ("..", "/etc", "in/../..", "nowhere"):
        with pytest.raises(BadRequest, match="no such folder"):
            batch_files(services, None, outside)


def told(path, text):
    info = PngInfo()
    info.add_text("parameters", text)
    Image.new("RGB", (96, 64), "blue").save(path, pnginfo=info)


def test_a_batch_is_written_where_it_should_be_under_its_own_names(tab, picture):
    tab.set(img2img_mode="batch", img2img_batch_output_dir="outputs/done", img2img_batch_use_png_info=False)
    body, services = tab.body(), tab.page.services
    beside = Beside.of(services, body)
    assert not [name for name in body if name.startswith("batch_") and name not in ("batch_size", "batch_files")]
    settings = body_of(services, body, Path(picture), beside)["override_settings"]
    assert (settings["outdir_samples"], settings["samples_filename_pattern"]) == ("outputs/done", "in")
    assert settings["save_to_dirs"] is False and settings["save_images_add_number"] is False
    for outside in ("..", "/etc", "outputs/../..", "models"):
        with pytest.raises(BadRequest):
            Beside.of(services, {"batch_output": outside})


def test_masks_of_a_batch_belong_to_the_files_of_their_names(tab, picture, tmp_path):
    services = tab.page.services
    folder = Path(services.flags.data_dir) / "masks"
    folder.mkdir(parents=True)
    Image.new("L", (96, 64), 255).save(folder / "other.png")
    tab.set(img2img_mode="batch", img2img_batch_inpaint_mask_dir="masks", img2img_mask_blur=9)
    body = tab.body()
    assert body["mask_blur"] == 9
    beside = Beside.of(services, dict(body))
    alone = body_of(services, body, Path(picture), beside)
    assert base64.b64decode(alone["mask"]) == (folder / "other.png").read_bytes()
    Image.new("L", (96, 64), 0).save(folder / "in.jpg")
    beside = Beside.of(services, dict(body))
    assert base64.b64decode(body_of(services, body, Path(picture), beside)["mask"]) == (folder / "in.jpg").read_bytes()
    with pytest.raises(BadRequest, match="no mask"):
        beside.mask_of(tmp_path / "third.png")
    tab.set(img2img_batch_inpaint_mask_dir="")
    assert "mask_blur" not in tab.body()


def test_a_batch_takes_parameters_of_its_files(tab, tmp_path):
    told(
        tmp_path / "in.png",
        "a pear\nNegative prompt: dull\nSteps: 9, Sampler: DDIM, Seed: 77, Model hash: abcdef1234, Model: pears",
    )
    tab.set(img2img_mode="batch", img2img_prompt="a fruit", img2img_steps=3, img2img_batch_use_png_info=True)
    services = tab.page.services

    def taken():
        body = tab.body()
        beside = Beside.of(services, body)
        return body_of(services, body, tmp_path / "in.png", beside)

    body = taken()
    assert (body["prompt"], body["negative_prompt"], body["steps"], body["seed"]) == ("a fruit a pear", "dull", 9, 77)
    assert body["sampler_name"] == "DDIM" and body["override_settings"] == {"sd_model_checkpoint": "pears [abcdef1234]"}
    tab.set(img2img_batch_png_info_props=["Seed"])
    body = taken()
    assert (body["prompt"], body["steps"], body["seed"], body["override_settings"]) == ("a fruit", 3, 77, {})
    tab.set(img2img_batch_use_png_info=False)
    assert taken()["seed"] == -1
