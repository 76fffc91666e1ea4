"""Whole pictures of small checkpoints of every family, against diffusers' pipelines with the same noise and sigmas."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

from benchmarks.make_checkpoint import write_checkpoint
from sdwebui_api.api.generation_schema import Img2ImgBody, Txt2ImgBody
from sdwebui_api.api.services import Services
from sdwebui_api.app import build
from sdwebui_api.config.options import Options
from sdwebui_api.generation.latents import POSTERIOR_STREAM, images_to_tensor
from sdwebui_api.generation.request import GenerationResult
from sdwebui_api.jobs.job import Job
from tests.parity.compare import psnr
from tests.parity.reference import Reference, noise, pixels, sigmas, start_latent
from tests.parity.reference_sdxl import ReferenceXL
from tests.support.fakes import golden_flags

FLOOR_DB = 45.0
SAME_WEIGHTS_DB = 80.0
"""One weight in another place in memory may be summed in another order."""
SEED, STEPS, CFG = 7, 6, 5.0
WIDTH, HEIGHT = 128, 64
"""Multiples of 64: at other sizes diffusers upsamples unlike the original UNet, which ours follows."""
PROMPT, NEGATIVE = "a red apple on a wooden table", "blurry"
KINDS = ("sd1-edit", "sd1-inpainting", "sd2-inpainting", "sd2-v", "sdxl-inpainting")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    for kind in KINDS:
        write_checkpoint(folder / f"{kind}.safetensors", kind, torch.float32, "small")
    reference = Reference(folder / "sd2-v.safetensors", version=2, prediction_type="v_prediction")
    StableDiffusionPipeline(**reference.modules()).save_pretrained(folder / "sd2-folder", variant="fp16")
    xl = write_checkpoint(folder / "sdxl.safetensors", "sdxl", torch.float32, "small")
    StableDiffusionXLPipeline(**ReferenceXL(xl).modules()).save_pretrained(folder / "sdxl-folder", max_shard_size="9MB")
    return folder


@pytest.fixture(scope="module")
def services(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Services:
    return build(golden_flags(tmp_path_factory.mktemp("family-data"), "--ckpt-dir", str(checkpoints)))


def ours(services: Services, kind: Literal["txt2img", "img2img"], checkpoint: str, **more: Any) -> Image.Image:
    """What the request's whole path makes: admission, prompts, sampling, decoding."""
    overrides = {"sd_model_checkpoint": checkpoint, "randn_source": "CPU"}
    fields = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "seed": SEED, "steps": STEPS, "cfg_scale": CFG}
    size = {"width": WIDTH, "height": HEIGHT, "sampler_name": "Euler", "override_settings": overrides}
    body = (Txt2ImgBody if kind == "txt2img" else Img2ImgBody).model_validate(fields | size | more)
    request = services.resolver(kind, body.model_dump(), body.model_fields_set, Options())
    with ThreadPoolExecutor(1) as thread:  # jobs run without autograd, which diffusers' modules here cannot be made in
        result: GenerationResult = thread.submit(services.generator.run, request, Job("test", kind)).result()
    return result.images[0].image


def theirs(pipeline: Any, **more: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        call = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": STEPS, "guidance_scale": CFG}
        return pixels(pipeline(**call, **more, output_type="pt").images)


def agreement(ours: Image.Image, theirs: np.ndarray) -> float:
    return psnr(ours, Image.fromarray(theirs))


@pytest.fixture(scope="module")
def start() -> Image.Image:
    """Smooth shapes of every colour."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin(x / 17 + shift) * np.cos(y / (11 + 3 * shift)) for shift in (0, 1, 2)]
    return Image.fromarray(((np.stack(waves, -1) + 1) * 127.5).astype(np.uint8))


def test_sd2_velocity(checkpoints, services):
    reference = Reference(checkpoints / "sd2-v.safetensors", version=2, prediction_type="v_prediction")
    pipeline = StableDiffusionPipeline(**reference.modules())
    latents = noise(SEED, (4, HEIGHT // 8, WIDTH // 8))
    expected = theirs(pipeline, height=HEIGHT, width=WIDTH, latents=latents)
    assert agreement(ours(services, "txt2img", "sd2-v"), expected) >= FLOOR_DB


@pytest.mark.parametrize(("file", "folder"), [("sd2-v", "sd2-folder"), ("sdxl", "sdxl-folder")])
def test_the_folder_that_a_pipeline_saves(file, folder, services):
    """Is the same checkpoint as the file that the pipeline was made of."""
    picture = ours(services, "txt2img", folder)
    assert agreement(picture, np.asarray(ours(services, "txt2img", file))) >= SAME_WEIGHTS_DB


@pytest.mark.parametrize("kind", ["sd1-inpainting", "sd2-inpainting", "sdxl-inpainting"])
def test_an_inpainting_model_without_a_picture(kind, checkpoints, services):
    """A1111 shows it a grey picture, all of which is to be painted."""
    path = checkpoints / f"{kind}.safetensors"
    if kind == "sdxl-inpainting":
        pipeline = StableDiffusionXLInpaintPipeline(**ReferenceXL(path, in_channels=9).modules())
    else:
        pipeline = StableDiffusionInpaintPipeline(**Reference(path, 9, 2 if "sd2" in kind else 1).modules())
    expected = theirs(
        pipeline,
        image=torch.zeros(1, 3, HEIGHT, WIDTH),
        mask_image=torch.ones(1, 1, HEIGHT, WIDTH),
        height=HEIGHT,
        width=WIDTH,
        strength=1.0,
        latents=noise(SEED, (4, HEIGHT // 8, WIDTH // 8)),
        generator=torch.Generator().manual_seed(SEED + POSTERIOR_STREAM),
    )
    assert agreement(ours(services, "txt2img", kind), expected) >= FLOOR_DB


def test_inpainting(checkpoints, services, start):
    """The picture under the mask is hidden from the model, and what lies outside is kept."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[16:48, 40:104] = 255
    pipeline = StableDiffusionInpaintPipeline(**Reference(checkpoints / "sd1-inpainting.safetensors", 9).modules())
    image, shape = images_to_tensor([start]), (4, HEIGHT // 8, WIDTH // 8)
    begun = start_latent(pipeline.vae, image, noise(SEED + POSTERIOR_STREAM, shape))
    kept = torch.from_numpy(mask[::8, ::8] == 0).float()[None, None]
    pipeline.scheduler.keep = (kept, begun)
    expected = theirs(
        pipeline,
        image=image,
        mask_image=torch.from_numpy(mask / 255.0)[None, None].float(),
        height=HEIGHT,
        width=WIDTH,
        strength=1.0,
        latents=noise(SEED, shape) + begun / sigmas(STEPS)[0],
        generator=torch.Generator().manual_seed(SEED + POSTERIOR_STREAM),
    )
    expected = np.where(mask[..., None] > 0, expected, np.asarray(start))
    masked = {"init_images": [encoded(start)], "mask": encoded(Image.fromarray(mask)), "mask_blur": 0}
    picture = ours(
        services, "img2img", "sd1-inpainting", **masked, denoising_strength=1.0, inpainting_fill=1, inpaint_full_res=0
    )
    assert agreement(picture, expected) >= FLOOR_DB


def test_instruct_pix2pix(checkpoints, services, start):
    """Three predictions: with prompt and picture, with the picture, with neither (Brooks et al. 2023, equation 3)."""
    pipeline = StableDiffusionInstructPix2PixPipeline(**Reference(checkpoints / "sd1-edit.safetensors", 8).modules())
    image, shape = images_to_tensor([start]), (4, HEIGHT // 8, WIDTH // 8)
    begun = start_latent(pipeline.vae, image, noise(SEED + POSTERIOR_STREAM, shape))
    latents = noise(SEED, shape) + begun / sigmas(STEPS)[0]
    expected = theirs(pipeline, image=image, image_guidance_scale=1.7, latents=latents)
    edit = {"init_images": [encoded(start)], "denoising_strength": 1.0, "image_cfg_scale": 1.7}
    assert agreement(ours(services, "img2img", "sd1-edit", **edit), expected) >= FLOOR_DB
    without = ours(services, "img2img", "sd1-edit", **edit | {"image_cfg_scale": 1.0})
    assert agreement(without, expected) < FLOOR_DB


def encoded(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()
