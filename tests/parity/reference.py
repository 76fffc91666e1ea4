"""An independent way to a picture: diffusers' own conversion of a checkpoint, its pipelines, its Euler scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sdwebui_api.engine.text_encoder import DATA

TRAINED_STEPS = 1000


def trained_sigmas() -> np.ndarray:
    """[1000], rising, of the "scaled linear" betas that all Stable Diffusion models share."""
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, TRAINED_STEPS) ** 2)
    return np.sqrt((1 - alphas) / alphas)


def sigmas(steps: int) -> list[float]:
    """[steps + 1], falling to 0: evenly spaced timesteps, logarithms interpolated (k-diffusion `get_sigmas`)."""
    t = np.linspace(TRAINED_STEPS - 1, 0, steps)
    return [*np.exp(np.interp(t, np.arange(TRAINED_STEPS), np.log(trained_sigmas()))), 0.0]


class Euler(EulerDiscreteScheduler):
    """Along `sigmas`, whatever timesteps a pipeline asks for; with `keep`, inpaints as A1111 does.

    keep: (mask [1, 1, h, w], 1 where the start latent stays; start latent [1, 4, h, w]).
    """

    keep: tuple[Tensor, Tensor] | None = None

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **unused: Any) -> None:
        super().set_timesteps(sigmas=sigmas(num_inference_steps), device=device)

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **more: Any) -> Any:
        if self.keep is not None:
            if self.step_index is None:
                self._init_step_index(timestep)
            sigma = self.sigmas[self.step_index]
            mask, start = self.keep
            denoised = (sample - sigma * model_output) * (1 - mask) + start * mask
            model_output = (sample - denoised) / sigma
        return super().step(model_output, timestep, sample, *args, **more)


@dataclass(frozen=True)
class Reference:
    """A small SD1 or SD2 checkpoint of `benchmarks/make_checkpoint.py`, read by diffusers."""

    path: Path
    in_channels: int = 4
    version: int = 1
    prediction_type: str = "epsilon"

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path)

    def modules(self) -> dict[str, Any]:
        """The arguments of a diffusers pipeline."""
        return {
            "unet": self._unet(),
            "vae": self._vae(),
            "text_encoder": self._text(),
            "tokenizer": self._tokenizer(),
            "scheduler": Euler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                prediction_type=self.prediction_type,
            ),
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }

    def _unet(self) -> UNet2DConditionModel:
        widths = (64, 128, 256, 256)
        unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=self.in_channels,
            block_out_channels=widths,
            cross_attention_dim=128,
            attention_head_dim=8 if self.version == 1 else [width // 64 for width in widths],
            use_linear_projection=self.version == 2,
        )
        unet.load_state_dict(convert_ldm_unet_checkpoint(dict(self.tensors), dict(unet.config)))
        return unet.eval()

    def _vae(self) -> AutoencoderKL:
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32, 64, 128, 128),
            layers_per_block=2,
            latent_channels=4,
            scaling_factor=0.18215,
        )
        vae.load_state_dict(convert_ldm_vae_checkpoint(dict(self.tensors), dict(vae.config)))
        return vae.eval()

    def _text(self) -> CLIPTextModel:
        """SD2's lacks the last of its three layers, as diffusers' SD2 lacks the last of 24."""
        config = CLIPTextConfig(
            hidden_size=128,
            intermediate_size=512,
            num_attention_heads=2,
            num_hidden_layers=3 if self.version == 1 else 2,
            hidden_act="quick_gelu" if self.version == 1 else "gelu",
            vocab_size=49408,
        )
        text = CLIPTextModel(config)
        if self.version == 1:
            found = convert_ldm_clip_checkpoint(dict(self.tensors))
        else:
            used = {name: tensor for name, tensor in self.tensors.items() if ".resblocks.2." not in name}
            found = convert_open_clip_checkpoint(text, used)
        named = {name.removeprefix("text_model."): tensor for name, tensor in found.items()}
        text.load_state_dict({name: named[name] for name in text.state_dict()})
        return text.eval()

    def _tokenizer(self) -> CLIPTokenizer:
        more = {"pad_token": "!"} if self.version == 2 else {}
        return CLIPTokenizer.from_pretrained(str(DATA), local_files_only=True, **more)


def noise(seed: int, shape: Sequence[int]) -> Tensor:
    """[1, *shape]: A1111's start noise on the CPU."""
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed))


def start_latent(vae: AutoencoderKL, image: Tensor, draw: Tensor) -> Tensor:
    """The scaled latent of `image` [1, 3, H, W] in [-1, 1] that a posterior's `draw` stands for."""
    with torch.no_grad():
        posterior = vae.encode(image).latent_dist
    return (posterior.mean + posterior.std * draw) * vae.config.scaling_factor


def pixels(images: Tensor) -> np.ndarray:
    """A pipeline's [1, 3, H, W] in [0, 1] as 8 bits, cut off as A1111 does."""
    return (images[0].permute(1, 2, 0).float().numpy() * 255).astype(np.uint8)
