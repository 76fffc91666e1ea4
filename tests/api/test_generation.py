"""txt2img and img2img through the doors: answers, limits, names, what a job leaves behind."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from sdwebui_api.errors import OutOfMemory

T2I, I2I = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
SMALL = {"steps": 2, "width": 64, "height": 64}


def picture(size=(64, 64), mode="RGB") -> str:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_answer(client):
    answer = client.post(T2I, json={"prompt": "a red apple", **SMALL, "batch_size": 2, "n_iter": 2})
    body = answer.json()
    assert set(body) == {"images", "parameters", "info"} and len(body["images"]) == 4
    image = Image.open(io.BytesIO(base64.b64decode(body["images"][0])))
    assert image.format == "PNG" and image.info["parameters"] == "a red apple\nSteps: 2"
    info = json.loads(body["info"])
    assert info["job_id"] == answer.headers["X-Job-Id"] and info["warnings"] == []
    assert answer.headers["content-type"] == "application/json"


def test_images_follow_the_servers_format_not_the_overrides(client):
    client.post("/sdapi/v1/options", json={"samples_format": "webp"})
    body = client.post(T2I, json={**SMALL, "override_settings": {"samples_format": "jpg"}}).json()
    assert Image.open(io.BytesIO(base64.b64decode(body["images"][0]))).format == "WEBP"


def test_send_images_false(client):
    assert client.post(T2I, json={**SMALL, "send_images": False}).json()["images"] == []


def test_random_seeds_are_drawn_at_admission(client, services):
    client.post(T2I, json={**SMALL, "seed": -1, "subseed": None})
    request = services.generator.requests[-1]
    assert request.seed >= 0 and request.subseed >= 0


def test_defaults_of_the_request(client, services):
    client.post(T2I, json={})
    request = services.generator.requests[-1]
    assert (request.width, request.height, request.steps, request.sampler) == (512, 512, 50, "Euler")
    assert request.s_tmax == float("inf") and request.do_not_save_samples and request.hires is None
    client.post(T2I, json={**SMALL, "s_tmax": 0, "save_images": True})
    request = services.generator.requests[-1]
    assert request.s_tmax == float("inf") and not request.do_not_save_grid


def test_inpainting_fields(client, services):
    body = {"init_images": [picture()], "mask": picture(mode="L"), "mask_blur": 9, **SMALL}
    assert client.post(I2I, json=body).status_code == 200
    mask = services.generator.requests[-1].init.mask
    assert (mask.blur_x, mask.blur_y, mask.fill, mask.full_resolution) == (9, 9, 0, True)


def test_hires_fields(client, services):
    names = {"hr_sampler_name": "euler a", "hr_scheduler": "karras"}
    body = {**SMALL, "enable_hr": True, "denoising_strength": 0.5, **names}
    assert client.post(T2I, json=body).status_code == 200
    hires = services.generator.requests[-1].hires
    # None means "Latent" and stays out of the infotext, as in A1111.
    assert (hires.upscaler, hires.sampler, hires.schedule) == (None, "Euler a", "Karras")


def test_hires_upscaler_is_not_checked_without_hires(client):
    assert client.post(T2I, json={**SMALL, "hr_upscaler": "no such"}).status_code == 200


@pytest.mark.parametrize(
    ("name", "title"), [("tiny-sd [a22b8a45be]", "tiny-sd.safetensors [a22b8a45be]"), ("gone", None)]
)
def test_an_infotext_names_its_refiner(name, title, client):
    text = f"a\nSteps: 2, Sampler: Euler, CFG scale: 7, Refiner: {name}, Refiner switch at: 0.5"
    answer = client.post(T2I, json={"infotext": text})
    assert answer.status_code == 200
    assert answer.json()["parameters"]["refiner_checkpoint"] == title


@pytest.mark.parametrize("name", ["Extra options", "Hypertile", "sampler", "Seed"])
def test_sections_without_effect_are_accepted(name, client):
    assert client.post(T2I, json={**SMALL, "alwayson_scripts": {name: {"args": [True]}}}).status_code == 200


def test_refiner_section_is_the_refiner_fields(client, services):
    entry = {"Refiner": {"args": [True, "tiny-sd", 0.6]}}
    assert client.post(T2I, json={**SMALL, "alwayson_scripts": entry}).status_code == 200
    request = services.generator.requests[-1]
    assert request.refiner_checkpoint.name == "tiny-sd.safetensors" and request.refiner_switch_at == 0.6


@pytest.mark.parametrize(
    ("path", "body", "status", "place"),
    [
        (T2I, '{"cfg_scale": NaN}', 422, ["body", "cfg_scale"]),
        (T2I, '{"cfg_scale": 1e999}', 422, ["body", "cfg_scale"]),
        (T2I, '{"seed": 1e400}', 422, ["body", "seed"]),
        (T2I, '{"seed": 123456789012345678901234567890}', 422, ["body", "seed"]),
        (T2I, '{"override_settings": {"eta_ddim": NaN}}', 422, ["body", "override_settings"]),
        (T2I, f'{{"script_args": [1{"0" * 400}]}}', 422, ["body", "script_args"]),
        (T2I, f'{{"alwayson_scripts": {{"x": {{"args": [-1{"0" * 400}]}}}}}}', 422, ["body", "alwayson_scripts"]),
        (T2I, '{"prompt": "\\ud800"}', 422, ["body", "prompt"]),
        (T2I, '{"prompt": "' + "x" * 100_001 + '"}', 422, ["body", "prompt"]),
        (T2I, '{"steps": 1001}', 422, ["body", "steps"]),
        (T2I, '{"width": 8192, "height": 8192, "batch_size": 2}', 422, ["body", "batch_size"]),
        (T2I, '{"enable_hr": true, "denoising_strength": 0.5, "hr_scale": 60}', 422, ["body", "hr_scale"]),
        (T2I, '{"infotext": "x\\nSteps: 99999, Sampler: Euler, CFG scale: 7"}', 422, ["body", "infotext"]),
        (T2I, '{"alwayson_scripts": {"refiner": {"args": [true, 7]}}}', 422, None),
        (I2I, '{"init_images": [5]}', 422, ["body", "init_images", 0]),
    ],
)
def test_refused_by_name(path, body, status, place, client):
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text[:300]
    if place:
        assert answer.json()["detail"][0]["loc"] == place
    assert len(answer.content) < 5000


def test_lora_is_text_when_networks_are_disabled(client):
    assert client.post(T2I, json={**SMALL, "prompt": "<lora:x:1>", "disable_extra_networks": True}).status_code == 200


def test_unknown_names_come_with_choices(client):
    sampler = client.post(T2I, json={"sampler_name": "Eulerr"})
    assert sampler.status_code == 400 and "Euler a" in sampler.json()["errors"]
    checkpoint = client.post(T2I, json={"override_settings": {"sd_model_checkpoint": "tiny"}})
    assert checkpoint.status_code == 200
    checkpoint = client.post(T2I, json={"override_settings": {"sd_model_checkpoint": "nothing"}})
    assert checkpoint.status_code == 404
    assert "override_settings.sd_model_checkpoint" in checkpoint.json()["errors"]


def test_unknown_option_is_a_warning(client):
    info = json.loads(client.post(T2I, json={**SMALL, "override_settings": {"nope": 1}}).json()["info"])
    assert any("nope" in warning for warning in info["warnings"])


def test_failures_are_told_without_paths(client, services):
    services.generator.error = RuntimeError("/root/secret.py")
    answer = client.post(T2I, json=SMALL)
    assert answer.status_code == 500 and "/root" not in answer.text
    services.generator.error = RuntimeError("CUDA out of memory. Tried to allocate")
    answer = client.post(T2I, json=SMALL)
    assert (answer.status_code, answer.json()["error"]) == (OutOfMemory.status, "OutOfMemoryError")
    services.generator.error = None
    assert client.post(T2I, json=SMALL).status_code == 200


def test_json_without_content_type(client):
    assert client.post(T2I, content=json.dumps(SMALL)).status_code == 200


def test_any_task_id_is_accepted_and_the_header_stays_one_line(client):
    answer = client.post("/sdapi/v1/txt2img", json={"prompt": "x", "force_task_id": "😀\r\nSet-Cookie: a"})
    assert answer.status_code == 200 and "set-cookie" not in answer.headers
    assert answer.headers["X-Job-Id"] == "%F0%9F%98%80%0D%0ASet-Cookie: a"
    assert client.post("/sdapi/v1/txt2img", json={"force_task_id": "task(a b)"}).headers["X-Job-Id"] == "task(a b)"
