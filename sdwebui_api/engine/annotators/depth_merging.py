"""Two looks at one depth merged: the network of "Boosting Monocular Depth" (Miangoleh et al. 2021, arXiv 2105.14021).

pix2pix's U-Net (Isola et al. 2016, arXiv 1611.07004) of ten levels, without norms.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sdwebui_api.engine.annotators.layers import Layers

SIDE = 1024
"""Of what the network takes: ten times halved."""


class _Level(nn.Module):
    """One step down, all deeper ones, one step up. `model` holds them under the numbers of the authors' file."""

    def __init__(self, layers: Layers, *, outermost: bool = False) -> None:
        super().__init__()
        inner = layers.at("model")
        self._outermost = outermost
        down, deeper = (0, 1) if outermost else (1, 3)
        parts: list[nn.Module] = [nn.Identity()] * down
        parts.append(inner.conv(str(down), stride=2, padding=1))
        if f"{deeper}.weight" not in inner:  # the innermost level goes up at once
            parts += [nn.Identity()] * (deeper - len(parts))
            parts.append(_Level(inner.at(deeper)))
        parts.append(nn.ReLU())
        parts.append(inner.upconv(str(len(parts)), stride=2, padding=1))
        self.model = nn.Sequential(*parts, *([nn.Tanh()] if outermost else []))

    def forward(self, x: Tensor) -> Tensor:
        if self._outermost:
            merged: Tensor = self.model(x)
            return merged
        # The original rectifies in place, so what skips the deeper levels is rectified too.
        x = nn.functional.leaky_relu(x, 0.2)
        return torch.cat([x, self.model(x)], 1)


class DepthMerging(nn.Module):
    """[1, 2, 1024, 1024], a coarse and a fine look, each from 0 to 255 → [1024, 1024] from 0 to 1."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.model = _Level(layers.at("model"), outermost=True)

    def forward(self, x: Tensor) -> Tensor:
        return (self.model(x / 127.5 - 1.0)[0, 0] + 1.0) / 2.0


def build_depth_merging(tensors: Mapping[str, Tensor]) -> nn.Module:
    """For the names of the authors' file."""
    return DepthMerging(Layers.of(tensors))
