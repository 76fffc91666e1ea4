"""Straight lines: M-LSD (Gu et al. 2021, arXiv 2106.00186), the large network.

The network says for every second pixel whether the middle of a line lies there, and where that line's ends are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from sdwebui_api.engine.annotators.layers import Layers
from sdwebui_api.engine.annotators.mobilenet import InvertedResidual, entry

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1)
"""Of the backbone's blocks."""
_TAPS = (1, 3, 6, 10, 13)
"""Numbers of the backbone's blocks that the way up looks at; 0 is the first convolution."""
_CENTRE, _ENDS = 7, slice(8, 12)
"""Channels of the output: the score of a line's middle, and (x, y) of both ends from there."""
_MOST_LINES = 200
_NEIGHBOURHOOD = 3


class _Joining(nn.Module):
    """Both inputs narrowed, the deeper one enlarged where it is smaller, side by side."""

    def __init__(self, layers: Layers, *, enlarges: bool) -> None:
        super().__init__()
        self.conv1 = _conv_norm(layers.at("conv1"))
        self.conv2 = _conv_norm(layers.at("conv2"))
        self._enlarges = enlarges

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        deep, shallow = self.conv1(deep), self.conv2(shallow)
        if self._enlarges:
            deep = nn.functional.interpolate(deep, scale_factor=2.0, mode="bilinear", align_corners=True)
        return torch.cat((shallow, deep), dim=1)


class _Mixing(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.conv1 = _conv_norm(layers.at("conv1"))
        self.conv2 = _conv_norm(layers.at("conv2"))

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.conv2(self.conv1(x) + x)
        return mixed


class _Answer(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.conv1 = _conv_norm(layers.at("conv1"), dilation=5)
        self.conv2 = _conv_norm(layers.at("conv2"))
        self.conv3 = layers.conv("conv3")

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.conv3(self.conv2(self.conv1(x)))
        return answer


def _conv_norm(layers: Layers, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(layers.conv("0", dilation=dilation), layers.batch_norm("1"), nn.ReLU())


class _Backbone(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        blocks = [
            InvertedResidual(layers.at("features", number), stride=stride, uneven=True)
            for number, stride in enumerate(_STRIDES, 1)
        ]
        self.features = nn.Sequential(entry(layers.at("features", 0), uneven=True), *blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for number, block in enumerate(self.features):
            x = block(x)
            if number in _TAPS:
                found.append(x)
        return found


class LineSegments(nn.Module):
    """[1, 3, H, W] RGB in [0, 255], sides multiples of 16 → [5, H/2, W/2]: centres' scores, ends' offsets."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.backbone = _Backbone(layers.at("backbone"))
        self.block15 = _Joining(layers.at("block15"), enlarges=False)
        self.block17, self.block19, self.block21 = (
            _Joining(layers.at(f"block{number}"), enlarges=True) for number in (17, 19, 21)
        )
        self.block16, self.block18, self.block20, self.block22 = (
            _Mixing(layers.at(f"block{number}")) for number in (16, 18, 20, 22)
        )
        self.block23 = _Answer(layers.at("block23"))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1) / 127.5 - 1.0
        first, second, third, fourth, fifth = self.backbone(x)
        x = self.block16(self.block15(fourth, fifth))
        x = self.block18(self.block17(third, x))
        x = self.block20(self.block19(second, x))
        x = self.block23(self.block22(self.block21(first, x)))[0]
        return torch.cat([x[_CENTRE : _CENTRE + 1].sigmoid(), x[_ENDS]])


def build_line_segments(tensors: Mapping[str, Tensor]) -> nn.Module:
    """For the names of the authors' file."""
    return LineSegments(Layers.of(tensors))


def segments(answer: NDArray[np.float32], *, score: float, length: float) -> NDArray[np.float32]:
    """`[5, h, w]` → the lines as `[N, 4]` (x, y, x, y) in the picture's pixels, the surest first.

    Lines less sure than `score` or not longer than `length` (in half pixels' cells) are left out.
    """
    scores = answer[0]
    best = np.asarray(cv2.dilate(scores, np.ones((_NEIGHBOURHOOD, _NEIGHBOURHOOD), dtype=np.uint8)))
    scores = np.where(best == scores, scores, 0.0).ravel()
    order = np.argsort(-scores, kind="stable")[:_MOST_LINES]
    rows, columns = np.divmod(order, answer.shape[2])
    offsets = answer[1:, rows, columns].T
    lengths = np.linalg.norm(offsets[:, :2] - offsets[:, 2:], axis=1)
    lines = np.stack([columns, rows, columns, rows], axis=1) + offsets
    kept = (scores[order] > score) & (lengths > length)
    return np.asarray(2.0 * lines[kept], dtype=np.float32)
