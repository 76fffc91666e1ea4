"""Lines of anime drawings: pix2pix's U-Net (Isola et al. 2016, arXiv 1611.07004) as ControlNet's authors trained it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

MULTIPLE = 256
"""Sides of what the network takes: eight times halved."""


class _Level(nn.Module):
    """One step down, all deeper ones, one step up. `model` holds them under the numbers of the authors' file."""

    def __init__(self, outer: int, inner: int, deeper: nn.Module | None, *, outermost: bool = False) -> None:
        super().__init__()
        self._outermost = outermost
        down = nn.Conv2d(3 if outermost else outer, inner, 4, stride=2, padding=1)
        up = nn.ConvTranspose2d(inner if deeper is None else 2 * inner, outer, 4, stride=2, padding=1)
        if outermost:
            parts = [down, deeper, nn.ReLU(), up, nn.Tanh()]
        elif deeper is None:
            parts = [nn.Identity(), down, nn.ReLU(), up, nn.InstanceNorm2d(outer)]
        else:
            parts = [nn.Identity(), down, nn.InstanceNorm2d(inner), deeper, nn.ReLU(), up, nn.InstanceNorm2d(outer)]
        self.model = nn.Sequential(*[part for part in parts if part is not None])

    def forward(self, x: Tensor) -> Tensor:
        if self._outermost:
            drawn: Tensor = self.model(x)
            return drawn
        # The original rectifies in place, so what skips the deeper levels is rectified too.
        x = nn.functional.leaky_relu(x, 0.2)
        return torch.cat([x, self.model(x)], 1)


class AnimeLines(nn.Module):
    """[1, 3, H, W] in [0, 255], any size → [H, W], from 0 to 1 where lines are."""

    def __init__(self, widths: Sequence[int]) -> None:
        """widths: of the levels, from the outermost (64, 128, 256, then 512 five times)."""
        super().__init__()
        level: nn.Module | None = None
        for outer, inner in reversed(list(pairwise(widths))):
            level = _Level(outer, inner, level)
        self.model = _Level(1, widths[0], level, outermost=True)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        size = tuple(-(-side // MULTIPLE) * MULTIPLE for side in (height, width))
        x = nn.functional.interpolate(x / 127.5 - 1.0, size, mode="bicubic", align_corners=False)
        drawn = nn.functional.interpolate(self.model(x), (height, width), mode="bicubic", align_corners=False)
        return (0.5 - drawn[0, 0] / 2.0).clamp(0.0, 1.0)


def load_anime_lines(tensors: Mapping[str, Tensor]) -> AnimeLines:
    """From the names of the authors' file, `module.` or not. Raises KeyError, RuntimeError."""
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    widths, place = [len(tensors["model.model.0.weight"])], "model.model.1.model"
    while f"{place}.1.weight" in tensors:
        widths.append(len(tensors[f"{place}.1.weight"]))
        place += ".3.model"
    network = AnimeLines(widths)
    network.load_state_dict(tensors)
    return network
