"""LaMa: holes filled by Fourier convolutions (Suvorov et al. 2021, arXiv 2109.07161).

Every layer has local channels, convolved as usual, and global ones, convolved in the frequencies of the whole picture.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sdwebui_api.engine.annotators.layers import Layers

Pair = tuple[Tensor, Tensor | None]
"""Local and global channels."""

PREFIX = "generator."
"""Of the part of the file that is used here; the rest served training."""


class _Frequencies(nn.Module):
    """A 1x1 convolution of the real and imaginary parts."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.conv_layer = layers.conv("conv_layer")
        self.bn = layers.batch_norm("bn")

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.fft.rfft2(x.float(), norm="ortho")
        parts = torch.stack((waves.real, waves.imag), dim=2).flatten(1, 2)
        parts = self.bn(self.conv_layer(parts)).relu().unflatten(1, (-1, 2))
        return torch.fft.irfft2(torch.complex(parts[:, :, 0], parts[:, :, 1]), s=x.shape[-2:], norm="ortho")


class _Global(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(layers.conv("conv1.0"), layers.batch_norm("conv1.1"), nn.ReLU())
        self.fu = _Frequencies(layers.at("fu"))
        self.conv2 = layers.conv("conv2")

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        found: Tensor = self.conv2(x + self.fu(x))
        return found


class _Fourier(nn.Module):
    """Four ways between local and global channels; those that the file lacks do not exist."""

    def __init__(self, layers: Layers, stride: int) -> None:
        super().__init__()
        self.ways = [way for way in ("convl2l", "convl2g", "convg2l") if f"{way}.weight" in layers]
        for way in self.ways:
            self.add_module(way, layers.conv(way, stride=stride, padding=0))
        side = layers.shape("convl2l.weight")[2]
        # The first convolution is 7 wide; the picture is bordered for it beforehand, as for the last.
        self._border = side // 2 if side < 7 else 0
        self.convg2g = _Global(layers.at("convg2g")) if "convg2g.conv2.weight" in layers else None

    def forward(self, pair: Pair) -> Pair:
        near, far = pair
        bordered = _bordered(near, self._border)
        to_near = self.get_submodule("convl2l")(bordered)
        to_far = self.get_submodule("convl2g")(bordered) if "convl2g" in self.ways else None
        if far is not None and self.convg2g is not None and to_far is not None:
            to_near = to_near + self.get_submodule("convg2l")(_bordered(far, self._border))
            to_far = to_far + self.convg2g(far)
        return to_near, to_far


class _Layer(nn.Module):
    def __init__(self, layers: Layers, stride: int = 1) -> None:
        super().__init__()
        self.ffc = _Fourier(layers.at("ffc"), stride)
        self.bn_l = layers.batch_norm("bn_l")
        self.bn_g = layers.batch_norm("bn_g") if "bn_g.weight" in layers else None

    def forward(self, pair: Pair) -> Pair:
        near, far = self.ffc(pair)
        return self.bn_l(near).relu(), None if far is None or self.bn_g is None else self.bn_g(far).relu()


class _Block(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.conv1, self.conv2 = _Layer(layers.at("conv1")), _Layer(layers.at("conv2"))

    def forward(self, pair: Pair) -> Pair:
        near, far = self.conv2(self.conv1(pair))
        assert far is not None and pair[1] is not None
        return pair[0] + near, pair[1] + far


class Lama(nn.Module):
    """[1, 4, H, W] in [0, 255], RGB and the mask (above 127: to be filled), sides multiples of 8 → [3, H, W] RGB.

    Pixels outside the mask come back as they are.
    """

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        numbers = layers.at("model").numbers()
        blocks = [n for n in numbers if "conv1.ffc.convl2l.weight" in layers.at("model", n)]
        parts: list[nn.Module] = [nn.Identity()] * (numbers[-1] + 1)
        for number in numbers:
            inner = layers.at("model", number)
            if number in blocks:
                parts[number] = _Block(inner)
            elif number < blocks[0]:
                parts[number] = _Layer(inner, stride=1 if number == numbers[0] else 2)
            elif "running_mean" in inner:
                parts[number] = layers.at("model").batch_norm(str(number))
            elif number == numbers[-1]:
                parts[number] = layers.at("model").conv(str(number), padding=0)
            else:
                parts[number] = layers.at("model").upconv(str(number), stride=2, padding=1, output_padding=1)
        self.model = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        hole = (x[:, 3:] > 127.5).to(x)
        known = x[:, :3] / 255.0 * (1 - hole)
        filled = self._generated(torch.cat([known, hole], 1))
        return (filled * hole + known * (1 - hole))[0] * 255.0

    def _generated(self, x: Tensor) -> Tensor:
        pair: Pair = (_bordered(x, 3), None)
        joined: Tensor | None = None
        last = len(self.model) - 1
        for number, layer in enumerate(self.model):
            if isinstance(layer, _Layer | _Block):
                pair = layer(pair)
            elif not isinstance(layer, nn.Identity):
                joined = torch.cat([part for part in pair if part is not None], 1) if joined is None else joined
                joined = layer(_bordered(joined, 3) if number == last else joined)
                joined = joined.relu() if isinstance(layer, nn.BatchNorm2d) else joined
        assert joined is not None
        return joined.sigmoid()


def _bordered(x: Tensor, width: int) -> Tensor:
    return nn.functional.pad(x, (width,) * 4, mode="reflect") if width else x


def build_lama(tensors: Mapping[str, Tensor]) -> nn.Module:
    """For the names of the authors' file, its part `generator` with the prefix removed."""
    return Lama(Layers.of(tensors))
