"""Parts of anime faces: a U-Net on MobileNetV2 (github.com/siyeong0/Anime-Face-Segmentation)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sdwebui_api.engine.annotators.layers import Layers
from sdwebui_api.engine.annotators.mobilenet import InvertedResidual, entry

_BLOCKS = ((1,), (2, 1), (2, 1, 1), (2, 1, 1, 1, 1, 1, 1), (2, 1, 1))
"""Strides of the encoder's levels; the first convolution comes before them."""
CLASSES = ("background", "hair", "eye", "mouth", "face", "skin", "clothes")


class _Up(nn.Sequential):
    """Twice the size, then a convolution under the number 1; the last one has neither norm nor activation."""

    def __init__(self, layers: Layers, *, last: bool) -> None:
        conv = layers.conv("1")
        after: list[nn.Module] = [] if last else [nn.InstanceNorm2d(conv.out_channels), nn.LeakyReLU(0.1)]
        super().__init__(nn.UpsamplingNearest2d(scale_factor=2), conv, *after)


class AnimeFace(nn.Module):
    """[1, 3, H, W] RGB in [0, 255] → scores `[7, H, W]` of `CLASSES`."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        for level, strides in enumerate(_BLOCKS):
            inner = layers.at(f"en_block{level}")
            first = [entry(inner.at(0))] if level == 0 else []
            blocks = [
                InvertedResidual(inner.at(number), stride=stride) for number, stride in enumerate(strides, len(first))
            ]
            self.add_module(f"en_block{level}", nn.Sequential(*first, *blocks))
        for level in range(len(_BLOCKS)):
            self.add_module(f"de_block{level}", _Up(layers.at(f"de_block{level}"), last=level == 0))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = x / 255.0
        down = []
        for level in range(len(_BLOCKS)):
            x = self.get_submodule(f"en_block{level}")(x)
            down.append(x)
        x = down.pop()
        for level in range(len(_BLOCKS) - 1, 0, -1):
            beside = down.pop()
            x = self.get_submodule(f"de_block{level}")(x)
            if x.shape[-2:] != beside.shape[-2:]:
                x = nn.functional.interpolate(x, beside.shape[-2:], mode="bilinear", align_corners=True)
            x = torch.cat([x, beside], 1)
        scores = self.get_submodule("de_block0")(x)
        return nn.functional.interpolate(scores, size, mode="nearest")[0]


def build_anime_face(tensors: Mapping[str, Tensor]) -> nn.Module:
    """For the names of the authors' file."""
    return AnimeFace(Layers.of(tensors))
