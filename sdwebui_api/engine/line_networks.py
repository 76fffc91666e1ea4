"""Small networks that find the lines of a picture: soft edges and line drawings.

HED (Xie & Tu 2015, arXiv 1504.06375) as ControlNet's authors trained it again: VGG-16's convolutions, of which every
stage paints edges at its own size. Drawings: the generator of "Learning to generate line drawings that convey geometry
and semantics" (Chan et al. 2022, arXiv 2203.12691), CycleGAN's with three residual blocks. Widths come from the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sdwebui_api.engine.anime_lines import load_anime_lines
from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.pidinet import load_pidinet
from sdwebui_api.engine.reading import Tensors, read_tensors
from sdwebui_api.errors import UnusableModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

HED_DEPTHS = (2, 2, 3, 3, 3)
"""Convolutions of each stage."""


class _Stage(nn.Module):
    def __init__(self, width_in: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width_in, *[width] * depth]
        self.convs = nn.ModuleList(nn.Conv2d(widths[n], widths[n + 1], 3, padding=1) for n in range(depth))
        self.projection = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x).relu()
        return x


class Hed(nn.Module):
    """[1, 3, H, W] in [0, 255] → [H, W], from 0 to 1 where edges are."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.zeros(1, 3, 1, 1))
        for index, (width, depth) in enumerate(zip(widths, HED_DEPTHS, strict=True)):
            setattr(self, f"block{index + 1}", _Stage(widths[index - 1] if index else 3, width, depth))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = x - self.norm
        painted = []
        for index in range(len(HED_DEPTHS)):
            stage: Any = getattr(self, f"block{index + 1}")
            x = stage(nn.functional.max_pool2d(x, 2) if index else x)
            edges = stage.projection(x)
            painted.append(nn.functional.interpolate(edges, size, mode="bilinear", align_corners=False))
        return torch.stack(painted).mean(0).sigmoid()[0, 0]


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width), nn.ReLU(),
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv_block(x)
        return x + out


class LineDrawing(nn.Module):
    """[1, 3, H, W] in [0, 255], sides multiples of 4 → [H, W], from 0 to 1 where lines are."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.model0 = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), nn.InstanceNorm2d(width), nn.ReLU()
        )  # fmt: skip
        self.model1 = nn.Sequential(*_halved(width), *_halved(width * 2))
        self.model2 = nn.Sequential(*[_Residual(width * 4) for _ in range(blocks)])
        self.model3 = nn.Sequential(*_doubled(width * 4), *_doubled(width * 2))
        self.model4 = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, 1, 7), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.model3(self.model2(self.model1(self.model0(x / 255.0))))
        ink: Tensor = self.model4(x)[0, 0]
        return 1.0 - ink


def _halved(width: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(width, width * 2, 3, stride=2, padding=1), nn.InstanceNorm2d(width * 2), nn.ReLU()


def _doubled(width: int) -> tuple[nn.Module, ...]:
    up = nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1)
    return up, nn.InstanceNorm2d(width // 2), nn.ReLU()


class LineNetwork:
    """One of the networks above on the device. Thread-safe; the device is held for one picture."""

    def __init__(self, network: nn.Module, device: Device) -> None:
        self._network = network
        self._device = device

    def lines(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 `[H, W, 3]`, sides multiples of 64 → float32 `[H, W]` from 0 to 1. Raises OutOfMemory."""
        pixels = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None].float()
        with self._device.running(self._network):
            found = self._network(pixels.to(self._device.plan.device)).float().cpu()
        return np.asarray(found.numpy(), dtype=np.float32)


def load_line_network(path: Path, plan: DevicePlan, device: Device) -> LineNetwork:
    """HED, PiDiNet, a line drawing generator or the one for anime, told by its keys. Raises UnusableModel."""
    tensors = {name.removeprefix("netNetwork."): tensor.float() for name, tensor in read_tensors(path).items()}
    try:
        network = _network_for(tensors)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UnusableModel(f"{path.name} is no network for edges or line drawings: {error}"[:300]) from error
    return LineNetwork(network.requires_grad_(False).eval().to(plan.storage), device)


def _network_for(tensors: Tensors) -> nn.Module:
    """With its weights. Raises KeyError, RuntimeError, ValueError when they do not fit."""
    if any(name.endswith("init_block.weight") for name in tensors):
        return load_pidinet(tensors)
    if any(name.endswith("model.model.0.weight") for name in tensors):
        return load_anime_lines(tensors)
    network: nn.Module
    if "block1.convs.0.weight" in tensors:
        network = Hed([len(tensors[f"block{number}.convs.0.weight"]) for number in range(1, len(HED_DEPTHS) + 1)])
    else:
        blocks = {name.split(".")[1] for name in tensors if name.startswith("model2.")}
        network = LineDrawing(len(tensors["model0.1.weight"]), len(blocks))
    network.load_state_dict(tensors)
    return network
