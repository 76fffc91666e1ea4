"""The unmodified `webuiapi` client from PyPI does its work against this server."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
import webuiapi
from PIL import Image, ImageChops, ImageDraw

from tests.support.server import RunningServer


def small() -> dict[str, Any]:
    """Quick settings. The client adds to its default `alwayson_scripts` in place, so that units of an earlier call
    (another test's) would come back in later ones; a new object keeps them away.
    """
    return {"width": 128, "height": 128, "steps": 6, "cfg_scale": 7, "alwayson_scripts": {}}


@pytest.fixture(scope="module")
def client(server: RunningServer) -> webuiapi.WebUIApi:
    address = urlsplit(server.url)
    return webuiapi.WebUIApi(host=address.hostname, port=address.port)


@pytest.fixture(scope="module")
def apple(client: webuiapi.WebUIApi) -> Image.Image:
    return client.txt2img(prompt="a red apple", seed=100, sampler_name="Euler", **small()).image


def test_txt2img_returns_the_picture_and_its_seed(client: webuiapi.WebUIApi) -> None:
    result = client.txt2img(
        prompt="a red apple", negative_prompt="blurry", seed=7, sampler_name="Euler a", batch_size=2, **small()
    )
    assert [image.size for image in result.images] == [(128, 128), (128, 128)]
    assert result.info["all_seeds"] == [7, 8]
    assert result.parameters["sampler_name"] == "Euler a"


def test_txt2img_with_hires_fix(client: webuiapi.WebUIApi) -> None:
    result = client.txt2img(
        prompt="a banana", seed=1, enable_hr=True, hr_scale=1.5, hr_upscaler=webuiapi.HiResUpscaler.Latent, **small()
    )
    assert result.image.size == (192, 192)


def test_img2img_follows_the_init_image(client: webuiapi.WebUIApi, apple: Image.Image) -> None:
    result = client.img2img(images=[apple], prompt="a red apple", seed=3, denoising_strength=0.3, **small())
    change = ImageChops.difference(result.image.convert("L"), apple.convert("L"))
    assert result.image.size == (128, 128)
    assert sum(change.resize((1, 1), Image.Resampling.BOX).getdata()) < 60


def test_inpainting_leaves_the_rest_alone(client: webuiapi.WebUIApi, apple: Image.Image) -> None:
    mask = Image.new("L", apple.size, 0)
    ImageDraw.Draw(mask).rectangle((40, 40, 90, 90), fill=255)
    result = client.img2img(
        images=[apple], mask_image=mask, prompt="a yellow star", seed=3, inpainting_fill=1, mask_blur=2, **small()
    )
    corner = (0, 0, 20, 20)
    assert result.image.crop(corner).tobytes() == apple.convert("RGB").crop(corner).tobytes()
    assert result.image.crop((50, 50, 80, 80)).tobytes() != apple.convert("RGB").crop((50, 50, 80, 80)).tobytes()


def test_options_are_read_and_set(client: webuiapi.WebUIApi) -> None:
    before = client.get_options()
    try:
        client.set_options({"CLIP_stop_at_last_layers": 2})
        assert client.get_options()["CLIP_stop_at_last_layers"] == 2
        client.set_options(before)
        assert client.get_options() == before
    finally:
        client.set_options({"CLIP_stop_at_last_layers": before["CLIP_stop_at_last_layers"]})


def test_listings(client: webuiapi.WebUIApi) -> None:
    assert "DPM++ 2M" in client.util_get_sampler_names()
    assert "karras" in [name.lower() for name in client.util_get_scheduler_names()]
    assert "tiny-sd" in " ".join(client.util_get_model_names())
    assert {"name": "Latent"} in client.get_latent_upscale_modes()
    assert "Lanczos" in [row["name"] for row in client.get_upscalers()]
    assert client.get_sd_vae()[0]["model_name"] == "tiny-vae.safetensors"
    assert [row["name"] for row in client.get_prompt_styles()] == ["sticker", "plain", "dark mode"]
    assert "tiny-emb" in client.get_embeddings()["loaded"]
    assert client.get_memory()["ram"]["total"] > 0
    assert client.get_cmd_flags()["nowebui"] is True
    assert client.get_schedulers()[0]["label"] == "Automatic"


def test_model_is_set_by_an_approximate_name(client: webuiapi.WebUIApi) -> None:
    client.util_set_model("tinysd")
    assert client.util_get_current_model().startswith("tiny-sd")
    client.refresh_checkpoints()
    client.util_wait_for_ready(check_interval=0.1)


def test_progress_is_idle_between_requests(client: webuiapi.WebUIApi) -> None:
    progress = client.get_progress()
    assert progress["progress"] == 0
    assert progress["state"]["job_count"] == 0


def test_png_info_reads_what_generation_wrote(client: webuiapi.WebUIApi, server: RunningServer) -> None:
    result = client.txt2img(prompt="a banana", seed=11, sampler_name="Euler", **small())
    assert "Seed: 11" in client.png_info(result.image).info


def test_interrupt_and_skip_answer_when_idle(client: webuiapi.WebUIApi) -> None:
    assert client.interrupt() == {}
    assert client.skip() is None
