"""Random control networks of any width, for tests."""

from __future__ import annotations

import torch
from diffusers import ControlNetModel
from torch import Tensor


def randomised(module: torch.nn.Module, scale: float = 0.05, seed: int = 0) -> dict[str, Tensor]:
    """A state dict of small random numbers, zero convolutions included."""
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(t.shape, generator=draw) * scale for name, t in module.state_dict().items()}


def controlnet_tensors(channels: int = 64, context: int = 128) -> dict[str, Tensor]:
    """In diffusers names; one residual block per level, three levels, the first without attention."""
    return randomised(
        ControlNetModel(
            block_out_channels=(channels, channels * 2, channels * 3),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            cross_attention_dim=context,
            attention_head_dim=4,
        )
    )
