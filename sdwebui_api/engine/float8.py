"""Weights kept in eight bits (A1111's "FP8 weight"): each layer widens its own when it computes.

float8_e4m3fn has 4 bits of exponent and 3 of mantissa: half of float16's memory, three significant bits left
(2209.05433). Biases and norms, a thousandth of the weights, keep their precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdwebui_api.engine.packed import dense
from sdwebui_api.engine.scaled import full, scale_of

STORAGE = torch.float8_e4m3fn


class Float8Linear(nn.Linear):
    """Computes in its input's precision."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype), _in(input, self.bias))


class Float8Conv2d(nn.Conv2d):
    """Computes in its input's precision."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight.to(input.dtype), _in(input, self.bias))


def _in(input: Tensor, bias: Tensor | None) -> Tensor | None:
    """A bias that a LoRA brought may have another precision."""
    return None if bias is None else bias.to(input.dtype)


_KINDS: Mapping[type[nn.Module], type[nn.Module]] = {nn.Linear: Float8Linear, nn.Conv2d: Float8Conv2d}


@dataclass(frozen=True)
class HalfWeight:
    """A layer's weight as it was, float16 in RAM."""

    tensor: Tensor

    def __deepcopy__(self, memo: Any) -> HalfWeight:
        return self


def keep_in_float8(module: nn.Module, tensors: Mapping[str, Tensor], keep_half: bool) -> frozenset[str]:
    """Turn the linear layers and convolutions of `module`, not filled yet, into ones whose weights are float8.

    `tensors`: what will fill it, by its names. With `keep_half` every such layer keeps its float16 weight beside.
    Returns the names of the weights that have to be filled in float8.
    """
    found = []
    for name, layer in module.named_modules():
        kind = _KINDS.get(type(layer))
        weight = f"{name}.weight"
        if kind is None or weight not in tensors:
            continue
        layer.__class__ = kind
        if keep_half:
            layer.half_weight = HalfWeight(_half(weight, tensors))
        found.append(weight)
    return frozenset(found)


def _half(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    return full(tensors[name], scale_of(name, tensors)).to("cpu", torch.float16, copy=True)


def size_of_halves(module: nn.Module) -> int:
    """Bytes of RAM that float16 weights kept beside float8 ones take."""
    kept = (getattr(layer, "half_weight", None) for layer in module.modules())
    return sum(half.tensor.nbytes for half in kept if isinstance(half, HalfWeight))


def full_weight(layer: nn.Module) -> Tensor:
    """The weight to merge changes into, in the usual order: the float16 one where it was kept."""
    half = getattr(layer, "half_weight", None)
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return half.tensor.to(weight.device) if isinstance(half, HalfWeight) else dense(weight.detach())


def clamped(values: Tensor, dtype: torch.dtype) -> Tensor:
    """`values` in `dtype`; what float8 cannot hold becomes its largest number, where a plain cast gives NaN."""
    if dtype != STORAGE:
        return values.to(dtype)
    limit = torch.finfo(STORAGE).max
    return values.clamp(-limit, limit).to(dtype)
