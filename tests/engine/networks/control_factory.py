"""Random control networks of any width, for tests."""

from __future__ import annotations

import torch
from diffusers import ControlNetModel
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

WIDTH, EMBEDDING, CONTEXT, TOKENS = 64, 48, 128, 4
"""Of random image encoders, their embeddings, the golden text encoder, and how many tokens an adapter makes."""


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


def draw(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}


def random_encoder() -> dict[str, Tensor]:
    """A tiny CLIP image encoder."""
    config = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=96, projection_dim=EMBEDDING, num_hidden_layers=2,
        num_attention_heads=16, image_size=32, patch_size=8,
    )  # fmt: skip
    tensors = randomised(CLIPVisionModelWithProjection(config))
    return {name: tensor for name, tensor in tensors.items() if "position_ids" not in name}


def random_adapter(layers: dict[int, int]) -> dict[str, Tensor]:
    """A plain IP-Adapter. `layers`: number of each cross-attention and its width."""
    shapes: dict[str, tuple[int, ...]] = {
        "image_proj.proj.weight": (TOKENS * CONTEXT, EMBEDDING),
        "image_proj.proj.bias": (TOKENS * CONTEXT,),
        "image_proj.norm.weight": (CONTEXT,),
        "image_proj.norm.bias": (CONTEXT,),
    }
    for number, width in layers.items():
        shapes |= {f"ip_adapter.{number}.to_{part}_ip.weight": (width, CONTEXT) for part in "kv"}
    return draw(shapes)
