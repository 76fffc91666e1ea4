"""The three networks of the embedded model: diffusers' and transformers' own classes, small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LATENT_SCALE = 8  # pixels per latent cell
SCALE_FACTOR = 0.18215
TIMESTEPS = 1000
TOKENS = 77


@dataclass(frozen=True)
class Architecture:
    """Sizes of an SD1-shaped model. The defaults are those of the shipped file.

    The UNet attends at all levels but the first (attention_resolutions [4, 2] of the original code's wording when
    there are three levels). GroupNorm has 32 groups everywhere, so channels are multiples of 32.
    """

    unet_channels: int = 64
    unet_multipliers: tuple[int, ...] = (1, 2, 3)
    unet_blocks: int = 1
    heads: int = 4
    vae_channels: int = 64
    vae_multipliers: tuple[int, ...] = (1, 1, 2, 2)
    vae_blocks: int = 1
    text_width: int = 128
    text_layers: int = 4
    vocabulary: int = 49408


EMBEDDED = Architecture()


@dataclass
class Networks:
    vae: Any  # diffusers.AutoencoderKL
    text_encoder: Any  # transformers.CLIPTextModel
    unet: Any  # diffusers.UNet2DConditionModel


def build_vae(architecture: Architecture) -> Any:
    from diffusers import AutoencoderKL

    levels = len(architecture.vae_multipliers)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(architecture.vae_channels * m for m in architecture.vae_multipliers),
        layers_per_block=architecture.vae_blocks,
        latent_channels=4,
        scaling_factor=SCALE_FACTOR,
    )


def build_unet(architecture: Architecture) -> Any:
    from diffusers import UNet2DConditionModel

    attending = len(architecture.unet_multipliers) - 1
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * attending),
        up_block_types=(*("CrossAttnUpBlock2D",) * attending, "UpBlock2D"),
        block_out_channels=tuple(architecture.unet_channels * m for m in architecture.unet_multipliers),
        layers_per_block=architecture.unet_blocks,
        cross_attention_dim=architecture.text_width,
        attention_head_dim=architecture.heads,  # diffusers' misnomer: the number of heads
    )


def build_text_encoder(architecture: Architecture, vocabulary: int | None = None) -> Any:
    """`vocabulary`: rows of the token table, when training uses a compact one (vocabulary.py)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    rows = vocabulary or architecture.vocabulary
    config = CLIPTextConfig(
        vocab_size=rows,
        hidden_size=architecture.text_width,
        intermediate_size=architecture.text_width * 4,
        projection_dim=architecture.text_width,
        num_hidden_layers=architecture.text_layers,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        hidden_act="quick_gelu",
        # Only the pooled output reads these, and nothing here reads the pooled output.
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    return CLIPTextModel(config)


def alphas_cumprod() -> Tensor:
    """Signal power after each timestep, float64 [1000]: SD1's "scaled linear" betas, 0.00085 to 0.012."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


class _Float32GroupNorm(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


def prepare(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on `device` in channels-last layout.

    On CPUs GroupNorm runs in float32 (bfloat16 channels-last GroupNorm was six times slower) and attention as plain
    matrix products (faster than the flash kernel at head widths of 16 to 48).
    """
    if device.type == "cpu":
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.GroupNorm:
                    setattr(parent, name, _float32_norm(child))
        from diffusers import ControlNetModel, UNet2DConditionModel
        from diffusers.models.attention_processor import AttnProcessor

        if isinstance(network, UNet2DConditionModel | ControlNetModel):
            network.set_attn_processor(AttnProcessor())
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _float32_norm(norm: nn.GroupNorm) -> nn.GroupNorm:
    replacement = _Float32GroupNorm(norm.num_groups, norm.num_channels, norm.eps, norm.affine)
    replacement.weight, replacement.bias = norm.weight, norm.bias
    return replacement


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the hardware is good at it (CUDA from Ampere on, CPUs with AMX), else off."""
    if device.type == "cuda":
        enabled = torch.cuda.is_bf16_supported()
    else:
        enabled = device.type == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def context(text_encoder: Any, token_ids: Tensor, clip_skip: int = 1) -> Tensor:
    """Text conditioning [B, 77, width] from the last layer (1) or the one before it (2), normalised."""
    output = text_encoder(input_ids=token_ids, output_hidden_states=clip_skip > 1)
    if clip_skip == 1:
        return output.last_hidden_state
    return text_encoder.final_layer_norm(output.hidden_states[-clip_skip])
