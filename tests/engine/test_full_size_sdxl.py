"""SDXL at its real size, 7 GB in one file of the original layout: read as diffusers reads it, and rendered, offline."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from benchmarks.make_checkpoint import write_checkpoint
from sdwebui_api.api.generation_schema import Txt2ImgBody
from sdwebui_api.app import build
from sdwebui_api.config.flags import parse_flags
from sdwebui_api.engine.filling import Weights
from sdwebui_api.engine.loading import OpenCheckpoint
from sdwebui_api.jobs.job import Job

pytestmark = pytest.mark.slow

GIGABYTE = 10**9
AS_STORED = Weights(torch.float16, torch.device("cpu"))

# The `config.json` of the published SDXL base, as far as it differs from the classes' defaults.
UNET = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
BIG_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = write_checkpoint(tmp_path_factory.mktemp("full-size") / "sdxl.safetensors", "sdxl", torch.float16)
    yield path
    path.unlink()


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_socket: socket.socket, address: Any) -> None:
        raise AssertionError(f"somebody wants to connect to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_two_steps_within_24_gigabytes(checkpoint: Path, tmp_path: Path) -> None:
    words = ["--data-dir", str(tmp_path), "--ckpt-dir", str(checkpoint.parent), "--nowebui", "--no-hashing"]
    services = build(parse_flags([*words, "--use-cpu", "all"], environ={}))
    size = {"width": 512, "height": 512, "override_settings": {"sd_model_checkpoint": checkpoint.name}}
    body = Txt2ImgBody.model_validate(
        size | {"prompt": "an apple", "steps": 2, "cfg_scale": 1, "sampler_name": "Euler"}
    )
    request = services.resolver("txt2img", body.model_dump(), body.model_fields_set, services.options.snapshot())
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = status("VmRSS")
    result = services.generator.run(request, Job("test", "txt2img"))
    peak = status("VmHWM")
    weights = checkpoint.stat().st_size  # in half precision there as in memory
    assert result.images[0].image.size == (512, 512) and result.images[0].image.getextrema() != ((0, 0),) * 3
    assert peak < 24 * GIGABYTE and peak - before < 1.1 * weights


@pytest.fixture(scope="module")
def opened(checkpoint: Path) -> OpenCheckpoint:
    return OpenCheckpoint(checkpoint, None)


def same(ours: Any, theirs: Mapping[str, Tensor], expected: Any, rename: tuple[str, str] = ("", "")) -> None:
    """Our module holds what diffusers' conversion gives for `expected`, a module without memory: no more, no less."""
    found = {name.replace(*rename, 1): tensor for name, tensor in ours.state_dict().items()}
    assert found.keys() == expected.state_dict().keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in found.items())


def test_the_unet_is_diffusers(opened: OpenCheckpoint) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
    theirs = convert_ldm_unet_checkpoint(dict(opened._tensors), dict(unet.config))
    same(opened.load_unet(AS_STORED), theirs, unet, ("class_embedding", "add_embedding"))


def test_the_text_models_are_diffusers(opened: OpenCheckpoint) -> None:
    module = opened.load_text_encoder(AS_STORED)
    prefix = "conditioner.embedders.0.transformer."
    clip = convert_ldm_clip_checkpoint(dict(opened._tensors), remove_prefix=prefix)
    ours = module["clip_l"].state_dict()
    assert len(ours) == 2 + 12 * 16 + 2
    assert all(torch.equal(tensor, clip[f"text_model.{name}"]) for name, tensor in ours.items())
    with torch.device("meta"):
        big = CLIPTextModelWithProjection(CLIPTextConfig(**BIG_G))
    theirs = convert_open_clip_checkpoint(big, dict(opened._tensors), prefix="conditioner.embedders.1.model.")
    same(module["clip_g"], theirs, big)


def test_the_vae_is_diffusers(opened: OpenCheckpoint) -> None:
    with torch.device("meta"):
        vae = AutoencoderKL(**VAE)
    same(opened.load_vae(AS_STORED), convert_ldm_vae_checkpoint(dict(opened._tensors), dict(vae.config)), vae)


def status(name: str) -> int:
    """Bytes of this process, of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
