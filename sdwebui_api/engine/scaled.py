"""Weights that a file keeps divided by a scale ("scaled fp8"): float8 has little range, so the scale holds it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sdwebui_api.errors import UnusableModel

_LEAVES = ("scale_weight", "weight_scale")
"""Beside `LAYER.weight`: one number, or one for each row. Scales of inputs are for products in float8: not done."""


def scale_of(name: str, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """What the weight `name` [out, …] has to be multiplied by, shaped to do so; None for weights without a scale.

    Raises UnusableModel for scales of blocks.
    """
    layer, _, leaf = name.rpartition(".")
    if leaf != "weight":
        return None
    scale = next((tensors[found] for place in _LEAVES if (found := f"{layer}.{place}") in tensors), None)
    if scale is None:
        return None
    weight = tensors[name]
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.numel() == weight.shape[0]:
        return scale.reshape(-1, *[1] * (weight.ndim - 1))
    raise UnusableModel(f"{name!r} has a scale of {list(scale.shape)} for {list(weight.shape)}, which is not supported")


def is_scaled(tensors: Mapping[str, Tensor]) -> bool:
    """Whether any weight of a file has a scale."""
    return any(name.rpartition(".")[2] in _LEAVES for name in tensors)


def full(weight: Tensor, scale: Tensor | None) -> Tensor:
    """The weight itself: in float32 where there is a scale."""
    return weight if scale is None else weight.to(torch.float32) * scale.to(torch.float32)
