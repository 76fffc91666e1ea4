"""Weights kept in the order in which oneDNN multiplies them on a CPU.

A plain bf16 weight is put into that order at every call. With the few rows of a small picture that costs as much as a
good part of the product: a guided step of SD1.5 at 256x256 took 1.11 s on two Zen 4 cores, 0.97 s with packed weights.
A packed weight takes the memory of a plain one. It is opaque: read it with `dense`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DTYPE = torch.bfloat16
"""The precision in which packing gains most; float32, which is there for exactness, keeps torch's own arithmetic."""


class PackedLinear(nn.Linear):
    """Computes as nn.Linear does, with a packed weight or a plain one."""

    def forward(self, input: Tensor) -> Tensor:
        if _needs_plain(self.weight, input):
            return F.linear(input, dense(self.weight), self.bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return product


class PackedConv2d(nn.Conv2d):
    """Computes as nn.Conv2d does, with a packed weight or a plain one. Packed, its output is channels last."""

    def forward(self, input: Tensor) -> Tensor:
        if _needs_plain(self.weight, input):
            return self._conv_forward(input, dense(self.weight), self.bias)
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0)
        product: Tensor = torch.ops.mkldnn._convolution_pointwise(
            input, self.weight, self.bias, padding, self.stride, self.dilation, self.groups, "none", [], ""
        )
        return product


class PointwiseConv2d(nn.Conv2d):
    """Computes as nn.Conv2d of 1x1 does: over a small map as a product of matrices.

    oneDNN has an order of its own for the weights of such a convolution, and brings them into it at every call: over
    8x8 pixels that costs as much as the convolution, over 4x4 four times as much. A product takes them as they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        batch, _, height, width = input.shape
        channels_last = input.is_contiguous(memory_format=torch.channels_last)
        if not channels_last or batch * height * width > self.out_channels:
            return super().forward(input)
        return F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def _needs_plain(weight: Tensor, input: Tensor) -> bool:
    """Packed products have no derivative, and know no precision but their own."""
    differentiated = torch.is_grad_enabled() and input.requires_grad
    return not weight.is_mkldnn or differentiated or input.dtype != weight.dtype


def _packed_linear(layer: nn.Linear, weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def _packed_convolution(layer: nn.Conv2d, weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
        weight, layer.padding, layer.stride, layer.dilation, layer.groups
    )
    return packed


_KINDS: Mapping[type[nn.Module], type[nn.Module]] = {nn.Linear: PackedLinear, nn.Conv2d: PackedConv2d}
_PACKERS: Mapping[type[nn.Module], Callable[..., Tensor]] = {
    PackedLinear: _packed_linear,
    PackedConv2d: _packed_convolution,
}


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether packed weights gain anything there."""
    if device.type != "cpu" or dtype != DTYPE or not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def keep_packed(module: nn.Module) -> dict[str, nn.Module]:
    """Turn the linear layers and convolutions of `module` into ones that may hold packed weights.

    Convolutions of 1x1 keep plain weights: which order is best for them depends on the area, and a wrong one takes ten
    times as long; for larger ones all areas share one. Returns the layers by the names of their weights.
    """
    found = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
            if (layer.stride, layer.groups, layer.padding) == ((1, 1), 1, (0, 0)):
                layer.__class__ = PointwiseConv2d
            continue
        if (kind := _KINDS.get(type(layer))) is not None:
            layer.__class__ = kind
            found[f"{name}.weight"] = layer
    return found


def packs(layer: nn.Module) -> bool:
    """Whether `layer` can hold a packed weight."""
    return type(layer) in _PACKERS


def packed(layer: nn.Module, weight: Tensor) -> Tensor:
    """A copy of `weight`, bfloat16 on the CPU, in the order that `layer` computes with."""
    return _PACKERS[type(layer)](layer, weight)


def dense(weight: Tensor) -> Tensor:
    """A copy of a packed weight in the usual order; any other weight as it is."""
    return weight.to_dense() if weight.is_mkldnn else weight
