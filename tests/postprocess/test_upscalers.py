"""The networks of a model tree at work in extras, in the hires pass and on start images."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from sdwebui_api.api.factory import create_app
from sdwebui_api.app import build
from sdwebui_api.engine.spandrel_package import spandrel
from sdwebui_api.errors import Cancelled, PayloadTooLarge
from sdwebui_api.jobs.job import Job
from tests.support.fakes import golden_flags
from tests.support.server import _model_tree


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """The golden models with a tiny two-fold network in ESRGAN and in DAT."""
    spandrel()
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact  # type: ignore[import-not-found]

    folder = tmp_path_factory.mktemp("upscalers")
    models = _model_tree(folder / "models")
    torch.manual_seed(0)
    weights = SRVGGNetCompact(num_feat=4, num_conv=1, upscale=2).state_dict()
    for name in ("ESRGAN/tiny.pth", "DAT/tiny dat.pth"):
        (models / name).parent.mkdir()
        torch.save({"params": weights}, models / name)
    (models / "ESRGAN" / "broken.pth").write_bytes(b"nothing")
    services = build(golden_flags(folder, "--models-dir", str(models), "--max-step-batch", "1"))
    yield services
    services.runner.drain(5)


@pytest.fixture(scope="module")
def client(services):
    return TestClient(create_app(services), raise_server_exceptions=False)


def encoded(width: int = 24, height: int = 16) -> str:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_listed(client):
    names = [row["name"] for row in client.get("/sdapi/v1/upscalers").json()]
    assert names == ["None", "Lanczos", "Nearest", "tiny dat", "broken", "tiny"]


def test_extras(client):
    body = {"image": encoded(), "upscaler_1": "tiny", "upscaling_resize": 3, "upscaler_2": "tiny dat"}
    answer = client.post("/sdapi/v1/extra-single-image", json={**body, "extras_upscaler_2_visibility": 0.5})
    assert answer.status_code == 200, answer.text
    assert decoded(answer.json()["image"]).size == (72, 48)
    assert "Postprocess upscaler: tiny, Postprocess upscaler 2: tiny dat" in answer.json()["html_info"]


def test_a_broken_file_is_a_4xx_that_names_it(client):
    answer = client.post("/sdapi/v1/extra-single-image", json={"image": encoded(), "upscaler_1": "broken"})
    assert answer.status_code == 422 and "broken.pth" in str(answer.json())


def test_the_hires_pass(client):
    body = {
        "prompt": "a red apple", "steps": 2, "width": 64, "height": 64, "seed": 1, "enable_hr": True,
        "hr_upscaler": "tiny", "hr_scale": 2, "denoising_strength": 0.5,
    }  # fmt: skip
    answer = client.post("/sdapi/v1/txt2img", json=body)
    assert answer.status_code == 200, answer.text
    assert decoded(answer.json()["images"][0]).size == (128, 128)
    assert "Hires upscaler: tiny" in answer.json()["info"]


def test_start_images(client):
    body = {
        "prompt": "a red apple", "steps": 2, "width": 64, "height": 64, "seed": 1, "init_images": [encoded(32, 32)],
    }  # fmt: skip
    pictures = []
    for upscaler in ("tiny", "None"):
        answer = client.post("/sdapi/v1/img2img", json=body | {"override_settings": {"upscaler_for_img2img": upscaler}})
        assert answer.status_code == 200, answer.text
        pictures.append(decoded(answer.json()["images"][0]).tobytes())
    assert pictures[0] != pictures[1]
    answer = client.post("/sdapi/v1/img2img", json=body | {"override_settings": {"upscaler_for_img2img": "no such"}})
    assert answer.status_code == 404 and "upscaler_for_img2img" in answer.text


def test_a_second_pass_that_would_be_huge_is_left_to_lanczos(services, monkeypatch):
    monkeypatch.setattr("sdwebui_api.postprocess.upscalers.MAX_NETWORK_PIXELS", 64 * 64)
    upscaler = services.upscalers.for_job(Job("one", "extras"), services.options.snapshot())["tiny"]
    assert upscaler.upscale(Image.new("RGB", (32, 32)), 3).size == (96, 96)
    with pytest.raises(PayloadTooLarge):
        upscaler.upscale(Image.new("RGB", (40, 40)), 3)


def test_cancelling_ends_between_two_tiles(services):
    job = Job("one", "extras")
    options = services.options.snapshot().merged({"ESRGAN_tile": 16, "ESRGAN_tile_overlap": 4})
    upscaler = services.upscalers.for_job(job, options, as_steps=True)["tiny"]
    seen = []
    job.add_listener(lambda: seen.append(job.snapshot().sampling_step))
    job.add_listener(lambda: job._cancel() if job.snapshot().sampling_step == 3 and not job.cancelled else None)
    with pytest.raises(Cancelled):
        upscaler.upscale(Image.new("RGB", (64, 64)), 2)
    assert max(seen) == 3 and job.snapshot().sampling_steps > 10
