"""EfficientNet (Tan & Le 2019, arXiv 1905.11946) as a pyramid of features: TensorFlow's habits, timm's names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdwebui_api.engine.annotators.layers import Layers

_STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Of the stages' first blocks."""
_KEPT = (0, 1, 2, 4)
"""Stages whose features are handed on: 1/2, 1/4, 1/8 and 1/16 of the sides."""
_NORM_EPS = 1e-3


class _Same(nn.Module):
    """Padding as TensorFlow has it: what is missing, the odd pixel to the right and below."""

    def __init__(self, side: int, stride: int) -> None:
        super().__init__()
        self._side, self._stride = side, stride

    def forward(self, x: Tensor) -> Tensor:
        missing = [max((-(-length // self._stride) - 1) * self._stride + self._side - length, 0) for length in x.shape]
        down, across = missing[2], missing[3]
        return nn.functional.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))


class _Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.conv_reduce = layers.conv("conv_reduce")
        self.conv_expand = layers.conv("conv_expand")

    def forward(self, x: Tensor) -> Tensor:
        seen = self.conv_reduce(x.mean((2, 3), keepdim=True))
        return x * self.conv_expand(nn.functional.silu(seen)).sigmoid()


class _Block(nn.Module):
    """`conv_pw` widens, `conv_dw` filters, `se` weighs, `conv_pwl` narrows; without widening `conv_pw` narrows."""

    def __init__(self, layers: Layers, stride: int) -> None:
        super().__init__()
        self.widens = "conv_pwl.weight" in layers
        side = layers.shape("conv_dw.weight")[2]
        self.pad = _Same(side, stride)
        self.conv_dw = layers.depthwise("conv_dw", stride=stride, padding=0)
        self.conv_pw = layers.conv("conv_pw")
        self.se = _Squeeze(layers.at("se"))
        self.bn1, self.bn2 = (layers.batch_norm(name, _NORM_EPS) for name in ("bn1", "bn2"))
        if self.widens:
            self.conv_pwl = layers.conv("conv_pwl")
            self.bn3 = layers.batch_norm("bn3", _NORM_EPS)
        width_in = self.conv_pw.in_channels if self.widens else self.conv_dw.in_channels
        width = self.conv_pwl.out_channels if self.widens else self.conv_pw.out_channels
        self.adds = stride == 1 and width_in == width

    def forward(self, x: Tensor) -> Tensor:
        if self.widens:
            inner = nn.functional.silu(self.bn1(self.conv_pw(x)))
            inner = nn.functional.silu(self.bn2(self.conv_dw(self.pad(inner))))
            found = self.bn3(self.conv_pwl(self.se(inner)))
        else:
            inner = nn.functional.silu(self.bn1(self.conv_dw(self.pad(x))))
            found = self.bn2(self.conv_pw(self.se(inner)))
        summed: Tensor = x + found if self.adds else found
        return summed


class EfficientNet(nn.Module):
    """[1, 3, H, W], normalised as ImageNet's pictures → features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the sides."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.pad = _Same(layers.shape("conv_stem.weight")[2], 2)
        self.conv_stem = layers.conv("conv_stem", stride=2, padding=0)
        self.bn1 = layers.batch_norm("bn1", _NORM_EPS)
        self.blocks = nn.Sequential(*(self._stage(layers, stage) for stage in range(len(_STRIDES))))
        self.conv_head = layers.conv("conv_head")
        self.bn2 = layers.batch_norm("bn2", _NORM_EPS)  # in the files, though nothing looks that far

    @staticmethod
    def _stage(layers: Layers, stage: int) -> nn.Sequential:
        inner = layers.at("blocks", stage)
        numbers = inner.numbers()
        return nn.Sequential(*(_Block(inner.at(n), _STRIDES[stage] if n == 0 else 1) for n in numbers))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = nn.functional.silu(self.bn1(self.conv_stem(self.pad(x))))
        found = []
        for stage, blocks in enumerate(self.blocks):
            x = blocks(x)
            if stage in _KEPT:
                found.append(x)
        return [*found, self.conv_head(x)]


_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def as_imagenet(x: Tensor) -> Tensor:
    """[1, 3, H, W] RGB in [0, 255], normalised as ImageNet's pictures were in training."""
    mean, deviation = (torch.tensor(values, device=x.device)[None, :, None, None] for values in (_MEAN, _DEVIATION))
    return (x / 255.0 - mean) / deviation
