"""T2I style adapter (Mou et al. 2023, arXiv 2302.08453): a picture's style as a few more words of the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdwebui_api.engine.devices import Device
from sdwebui_api.engine.ldm_names import indices
from sdwebui_api.engine.networks.clip_vision import as_input
from sdwebui_api.engine.networks.control import ControlInput, Hint, Residuals
from sdwebui_api.engine.reading import Shapes, reading_structure
from sdwebui_api.errors import UnusableModel

MARK = "style_embedding"
"""Name of a tensor that only these have."""
_HEADS = 8


class StyleAdapter:
    """A `ControlNetwork`; its hint is the words, `[N, T, D]`."""

    kind = "style_adapter"
    count = 1
    forced_conditional = True

    def __init__(self, key: str, module: StyleModule, dtype: torch.dtype, device: Device) -> None:
        self.key = key
        self._module = module
        self._dtype = dtype
        self._device = device

    @property
    def module(self) -> nn.Module:
        return self._module

    def soft_weights(self) -> tuple[float, ...]:
        return (1.0,)

    def embed(self, hint: Tensor) -> Hint:
        with self._device.running(self._module):
            return (self._module.words(hint.to(self._device.plan.device, torch.float32), self._dtype),)

    def residuals(self, x: Tensor, t: Tensor, context: Tensor, hint: Hint, vector: Tensor | None = None) -> Residuals:
        return Residuals()


class StyleModule(nn.Module):
    """encoder: CLIP's image encoder. projection: what makes words of its patches."""

    def __init__(self, encoder: Any, projection: StyleProjection) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection

    def words(self, pictures: Tensor, dtype: torch.dtype) -> Tensor:
        pixels = as_input(pictures, self.encoder.config.image_size).to(dtype)
        words: Tensor = self.projection(self.encoder(pixels).last_hidden_state)
        return words


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, width * 4)
        self.c_proj = nn.Linear(width * 4, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        changed: Tensor = self.c_proj(x * torch.sigmoid(1.702 * x))
        return changed


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, _HEADS, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = _Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False)[0]
        changed: Tensor = x + self.mlp(self.ln_2(x))
        return changed


class StyleProjection(nn.Module):
    """A few learned vectors look at every patch; what they become are the words. Names are the authors'."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        _, self.words, self.input_width = shapes[MARK]
        self.width = shapes["proj"][1]
        blocks = indices(shapes, "transformer_layes.")
        self.style_embedding = nn.Parameter(torch.empty(1, self.words, self.input_width))
        self.proj = nn.Parameter(torch.empty(self.input_width, self.width))
        self.ln_pre, self.ln_post = nn.LayerNorm(self.input_width), nn.LayerNorm(self.input_width)
        self.transformer_layes = nn.Sequential(*(_Block(self.input_width) for _ in blocks))

    def forward(self, patches: Tensor) -> Tensor:
        x = torch.cat([patches, self.style_embedding.expand(len(patches), -1, -1)], dim=1)
        x = self.transformer_layes(self.ln_pre(x))
        words: Tensor = self.ln_post(x[:, -self.words :]) @ self.proj
        return words


@reading_structure("the style adapter")
def style_projection(shapes: Shapes, unet: Any) -> StyleProjection:
    """Without memory (call on the meta device). Raises UnusableModel when it does not fit the diffusers UNet."""
    projection = StyleProjection(shapes)
    if projection.width != unet.config.cross_attention_dim:
        raise UnusableModel(
            f"a style adapter for text encodings {projection.width} wide does not fit this checkpoint, whose are "
            f"{unet.config.cross_attention_dim} wide"
        )
    return projection


def with_styles(context: Tensor, inputs: Sequence[ControlInput]) -> Tensor:
    """`context` `[B, T, D]` with the words of the style adapters among `inputs` behind it, times their scales."""
    styles = [one for one in inputs if isinstance(one.network, StyleAdapter)]
    words = [one.hint[0].to(context) * one.scales[:, :1, None].to(context) for one in styles]
    return torch.cat([context, *words], dim=1) if words else context


def named_tensors(tensors: Mapping[str, Tensor], encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Both files' tensors under the names of `StyleModule`."""
    return {
        **{f"projection.{name}": tensor for name, tensor in tensors.items()},
        **{f"encoder.{name}": tensor for name, tensor in encoder.items()},
    }
