"""Whole pictures of small SDXL checkpoints, against diffusers' pipelines with the same noise and sigmas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from PIL import Image
from torch import Tensor

from benchmarks.make_checkpoint import write_checkpoint
from sdwebui_api.api.generation_schema import Txt2ImgBody
from sdwebui_api.api.services import Services
from sdwebui_api.app import build
from sdwebui_api.generation.request import GenerationResult
from sdwebui_api.jobs.job import Job
from tests.parity.compare import psnr
from tests.parity.reference import noise, pixels
from tests.parity.reference_sdxl import ReferenceXL
from tests.support.fakes import golden_flags

FLOOR_DB = 45.0
SEED, STEPS, CFG = 7, 6, 5.0
WIDTH, HEIGHT = 128, 96
PROMPT = "a red apple on a wooden table"
KINDS = ("sdxl", "sdxl-v", "sdxl-refiner")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdxl")
    for kind in KINDS:
        write_checkpoint(folder / f"{kind}.safetensors", kind, torch.float32, "small")
    return folder


@pytest.fixture(scope="module")
def services(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Services:
    return build(golden_flags(tmp_path_factory.mktemp("sdxl-data"), "--ckpt-dir", str(checkpoints)))


def generated(services: Services, checkpoint: str, **more: Any) -> GenerationResult:
    """What the request's whole path makes: admission, prompts, sampling, decoding."""
    overrides = {"sd_model_checkpoint": f"{checkpoint}.safetensors", "randn_source": "CPU"}
    overrides |= more.pop("override_settings", {})
    fields = {"prompt": PROMPT, "seed": SEED, "steps": STEPS, "cfg_scale": CFG, "sampler_name": "Euler"}
    size = {"width": WIDTH, "height": HEIGHT, "override_settings": overrides}
    body = Txt2ImgBody.model_validate(fields | size | more)
    request = services.resolver("txt2img", body.model_dump(), body.model_fields_set, services.options.snapshot())
    result: GenerationResult = services.generator.run(request, Job("test", "txt2img"))
    return result


def ours(services: Services, checkpoint: str, **more: Any) -> Image.Image:
    return generated(services, checkpoint, **more).images[0].image


def theirs(pipeline: Any, **more: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    call = {"prompt": PROMPT, "num_inference_steps": STEPS, "guidance_scale": CFG, "output_type": "pt"}
    with torch.no_grad():
        return pipeline(**call | more).images


def latents() -> Tensor:
    return noise(SEED, (4, HEIGHT // 8, WIDTH // 8))


def agreement(ours: Image.Image, theirs: Tensor) -> float:
    return psnr(ours, Image.fromarray(pixels(theirs)))


@pytest.fixture(scope="module")
def base(checkpoints: Path) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(**ReferenceXL(checkpoints / "sdxl.safetensors").modules())


def test_base(base: StableDiffusionXLPipeline, services: Services) -> None:
    """An empty negative prompt is zeros for both; a written one is encoded; sizes and crop are told."""
    size = {"height": HEIGHT, "width": WIDTH, "latents": latents()}
    empty = ours(services, "sdxl")
    assert agreement(empty, theirs(base, **size)) >= FLOOR_DB
    expected = theirs(base, **size, negative_prompt="blurry", crops_coords_top_left=(16, 32))
    crop = {"sdxl_crop_top": 16, "sdxl_crop_left": 32}
    assert agreement(ours(services, "sdxl", negative_prompt="blurry", override_settings=crop), expected) >= FLOOR_DB
    assert agreement(empty, expected) < FLOOR_DB


def test_base_without_guidance(base: StableDiffusionXLPipeline, services: Services) -> None:
    """As Turbo, Lightning and LCM models are used."""
    expected = theirs(base, height=HEIGHT, width=WIDTH, latents=latents(), guidance_scale=1.0)
    assert agreement(ours(services, "sdxl", cfg_scale=1.0), expected) >= FLOOR_DB


def test_velocity_and_zero_terminal_snr(checkpoints: Path, services: Services) -> None:
    """Two empty tensors in the file say so."""
    reference = ReferenceXL(checkpoints / "sdxl-v.safetensors", prediction_type="v_prediction")
    pipeline = StableDiffusionXLPipeline(**reference.modules())
    expected = theirs(pipeline, height=HEIGHT, width=WIDTH, latents=latents())
    assert agreement(ours(services, "sdxl-v"), expected) >= FLOOR_DB


def test_the_refiner_takes_over(base: StableDiffusionXLPipeline, checkpoints: Path, services: Services) -> None:
    """Another text encoder, other sizes and aesthetic scores from the fourth step on."""
    begun = theirs(base, height=HEIGHT, width=WIDTH, latents=latents(), denoising_end=0.5, output_type="latent")
    modules = ReferenceXL(checkpoints / "sdxl-refiner.safetensors", refiner=True).modules()
    refiner = StableDiffusionXLImg2ImgPipeline(**modules, requires_aesthetics_score=True)
    expected = theirs(refiner, image=begun, denoising_start=0.5)
    switch = {"refiner_checkpoint": "sdxl-refiner", "refiner_switch_at": 0.5}
    result = generated(services, "sdxl", **switch)
    assert agreement(result.images[0].image, expected) >= FLOOR_DB
    assert (
        "Refiner: sdxl-refiner" in result.images[0].infotext and "Refiner switch at: 0.5" in result.images[0].infotext
    )
