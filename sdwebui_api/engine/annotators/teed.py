"""TEED: a tiny edge detector (Soria et al. 2023, arXiv 2308.06468), and Anyline's further training of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sdwebui_api.engine.annotators.layers import Layers

_UP_PADDING = {2: 0, 4: 1}
"""Of a transposed convolution, by its side."""


def smish(x: Tensor) -> Tensor:
    """Smish (Wang et al. 2022): x tanh(ln(1 + sigmoid(x)))."""
    return x * torch.tanh(torch.log1p(torch.sigmoid(x)))


class _Smish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return smish(x)


class _Double(nn.Module):
    def __init__(self, layers: Layers, *, stride: int = 1, activates: bool = True) -> None:
        super().__init__()
        self.conv1 = layers.conv("conv1", stride=stride)
        self.conv2 = layers.conv("conv2")
        self._activates = activates

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(smish(self.conv1(x)))
        return smish(x) if self._activates else x


class _Single(nn.Module):
    def __init__(self, layers: Layers, stride: int) -> None:
        super().__init__()
        self.conv = layers.conv("conv", stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        narrowed: Tensor = self.conv(x)
        return narrowed


class _Dense(nn.Module):
    """The first convolution looks two pixels over the border, the second takes them away again."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.conv1 = layers.conv("conv1", padding=2)
        self.conv2 = layers.conv("conv2", padding=0)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        return 0.5 * (self.conv2(smish(self.conv1(smish(x)))) + beside)


class _Up(nn.Module):
    """Steps of (1x1, Smish, twice the size) under the numbers of the authors' file."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        inner = layers.at("features")
        for number in inner.numbers()[::2]:
            side = inner.shape(f"{number + 2}.weight")[2]
            up = inner.upconv(str(number + 2), stride=2, padding=_UP_PADDING[side])
            parts += [inner.conv(str(number)), _Smish(), up]
        self.features = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        edges: Tensor = self.features(x)
        return edges


class _Fusion(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        width = layers.shape("DWconv2.weight")[0]
        self.DWconv1 = layers.conv("DWconv1", groups=3)
        self.DWconv2 = layers.conv("DWconv2", groups=width)

    def forward(self, x: Tensor) -> Tensor:
        first = self.DWconv1(smish(x))
        return smish((self.DWconv2(smish(first)) + first).sum(1, keepdim=True))


class Teed(nn.Module):
    """[1, 3, H, W] RGB in [0, 255], sides multiples of 8 → [H, W], from 0 to 1 where edges are."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.block_1 = _Double(layers.at("block_1"), stride=2)
        self.block_2 = _Double(layers.at("block_2"), activates=False)
        self.dblock_3 = nn.ModuleDict({"denselayer1": _Dense(layers.at("dblock_3", "denselayer1"))})
        self.side_1 = _Single(layers.at("side_1"), 2)
        self.pre_dense_3 = _Single(layers.at("pre_dense_3"), 1)
        self.up_block_1, self.up_block_2, self.up_block_3 = (_Up(layers.at(f"up_block_{n}")) for n in (1, 2, 3))
        self.block_cat = _Fusion(layers.at("block_cat"))

    def forward(self, x: Tensor) -> Tensor:
        first = self.block_1(x)
        second = self.block_2(first)
        halved = nn.functional.max_pool2d(second, 3, stride=2, padding=1)
        third = self.dblock_3["denselayer1"](halved + self.side_1(first), self.pre_dense_3(halved))
        painted = torch.cat([self.up_block_1(first), self.up_block_2(second), self.up_block_3(third)], dim=1)
        return torch.cat([painted, self.block_cat(painted)], dim=1).mean(1)[0].sigmoid()


def build_teed(tensors: Mapping[str, Tensor]) -> nn.Module:
    """For the names of the authors' file."""
    return Teed(Layers.of(tensors))
