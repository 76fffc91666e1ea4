"""The same independent way for SDXL: diffusers' conversion, its base and refiner pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sdwebui_api.engine.text_encoder import DATA
from tests.parity.reference import TRAINED_STEPS, Euler, trained_sigmas

SIZE_EMBEDDING = 256
LAST_ALPHA = 4.8973451890853435e-08


def zero_snr_sigmas() -> np.ndarray:
    """[1000]: Lin et al. 2023, algorithm 1, the last one as large as A1111 has it instead of infinite."""
    roots = np.sqrt(1 / (trained_sigmas() ** 2 + 1))
    alphas = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    alphas[-1] = LAST_ALPHA
    return np.sqrt((1 - alphas) / alphas)


class ZeroSnrEuler(Euler):
    """Along the schedule that ends in pure noise."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **unused: Any) -> None:
        table = zero_snr_sigmas()
        self.alphas_cumprod = torch.from_numpy(1 / (table**2 + 1)).float()
        t = np.linspace(TRAINED_STEPS - 1, 0, num_inference_steps)
        along = np.exp(np.interp(t, np.arange(TRAINED_STEPS), np.log(table)))
        super(Euler, self).set_timesteps(sigmas=[*along, 0.0], device=device)


@dataclass(frozen=True)
class ReferenceXL:
    """A small SDXL checkpoint of `benchmarks/make_checkpoint.py`, read by diffusers. refiner: it has bigG alone."""

    path: Path
    refiner: bool = False
    prediction_type: str = "epsilon"
    in_channels: int = 4

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path)

    def modules(self) -> dict[str, Any]:
        """The arguments of a diffusers pipeline."""
        scheduler = ZeroSnrEuler if "ztsnr" in self.tensors else Euler
        return {
            "unet": self._unet(),
            "vae": self._vae(),
            "text_encoder": None if self.refiner else self._clip_l(),
            "text_encoder_2": self._clip_g(128 if self.refiner else 192, 0 if self.refiner else 1),
            "tokenizer": None if self.refiner else CLIPTokenizer.from_pretrained(str(DATA), local_files_only=True),
            "tokenizer_2": CLIPTokenizer.from_pretrained(str(DATA), local_files_only=True, pad_token="!"),
            "scheduler": scheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                prediction_type=self.prediction_type,
            ),
        }

    def _unet(self) -> UNet2DConditionModel:
        widths = (64, 128, 256, 256) if self.refiner else (64, 128, 256)
        attention = (False, True, True, False) if self.refiner else (False, True, True)
        numbers, pooled = (5, 128) if self.refiner else (6, 192)
        unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=self.in_channels,
            block_out_channels=widths,
            down_block_types=tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention),
            up_block_types=tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)),
            transformer_layers_per_block=[2] * len(widths) if self.refiner else [1, 2, 2],
            cross_attention_dim=128 if self.refiner else 320,
            attention_head_dim=[width // 64 for width in widths],
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=SIZE_EMBEDDING,
            projection_class_embeddings_input_dim=pooled + numbers * SIZE_EMBEDDING,
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
            scaling_factor=0.13025,
        )
        vae.load_state_dict(convert_ldm_vae_checkpoint(dict(self.tensors), dict(vae.config)))
        return vae.eval()

    def _clip_l(self) -> CLIPTextModel:
        text = CLIPTextModel(_text_config(128, "quick_gelu"))
        prefix = "conditioner.embedders.0.transformer."
        own = {name: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}
        found = convert_ldm_clip_checkpoint(own, remove_prefix=prefix)
        text.load_state_dict({name: found[f"text_model.{name}"] for name in text.state_dict()})
        return text.eval()

    def _clip_g(self, width: int, number: int) -> CLIPTextModelWithProjection:
        text = CLIPTextModelWithProjection(_text_config(width, "gelu"))
        found = convert_open_clip_checkpoint(text, dict(self.tensors), prefix=f"conditioner.embedders.{number}.model.")
        text.load_state_dict({name: found[name] for name in text.state_dict()})
        return text.eval()


def _text_config(width: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=width // 64,
        num_hidden_layers=3,
        hidden_act=activation,
        vocab_size=49408,
        projection_dim=width,
    )
