"""Networks that enlarge pictures (ESRGAN, SwinIR, DAT, HAT, ScuNET, …): loading, and running in overlapping tiles."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.pictures import picture_dtype
from sdwebui_api.engine.reading import read_pickle, read_tensors
from sdwebui_api.engine.spandrel_package import spandrel
from sdwebui_api.errors import UnusableModel

log = logging.getLogger(__name__)

OnTile = Callable[[int, int], None]
"""Told after every tile (done, of how many); may raise to end the work."""

SMALLEST_TILE = 16


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut: sides of a tile and of what neighbours share, in source pixels. Side 0: not at all."""

    side: int = 192
    overlap: int = 8


def load_upscaler(path: Path, plan: DevicePlan, device: Device) -> UpscalerNetwork:
    """The network in `path`, whose architecture and sizes are read off its tensors.

    Raises UnusableModel: broken, an untrusted pickle, an unknown architecture, or no network from RGB to RGB.
    """
    content = read_tensors(path) if path.suffix.lower() == ".safetensors" else read_pickle(path)
    if not isinstance(content, dict):
        raise UnusableModel(f"{path.name} holds no weights")
    package = spandrel()
    try:
        with torch.inference_mode(False):  # weights outlive the request that loads them
            found = package.MAIN_REGISTRY.load(content)
    except package.UnsupportedModelError:
        raise UnusableModel(f"{path.name} is no upscaler of a known architecture") from None
    except Exception as error:  # what a detector does to weights it took for its own
        raise UnusableModel(f"{path.name} cannot be loaded as an upscaler: {error}"[:500]) from error
    if not isinstance(found, package.ImageModelDescriptor) or found.input_channels != 3 or found.output_channels != 3:
        raise UnusableModel(f"{path.name} ({found.architecture.name}) is no network from RGB pictures to RGB pictures")
    wanted = picture_dtype(plan)
    dtype = wanted if wanted != torch.float16 or found.supports_half else torch.float32
    with torch.inference_mode(False):
        found.model.requires_grad_(False).eval().to(plan.storage, dtype)
    log.info("%s: %s, %dx, %s", path.name, found.architecture.name, found.scale, dtype)
    return UpscalerNetwork(found, dtype, device)


class UpscalerNetwork:
    """A loaded network. Thread-safe: the device is held for one tile at a time, so sampling goes on between tiles."""

    def __init__(self, descriptor: Any, dtype: torch.dtype, device: Device) -> None:
        """`descriptor`: spandrel's ImageModelDescriptor, RGB in [0, 1] to RGB in [0, 1]."""
        self._descriptor = descriptor
        self._dtype = dtype
        self._device = device

    @property
    def scale(self) -> int:
        """How many times as large the result is; 1 for networks that only restore."""
        scale: int = self._descriptor.scale
        return scale

    def enlarge(self, image: Image.Image, tiling: Tiling = Tiling(), on_tile: OnTile | None = None) -> Image.Image:
        """`image` (RGB; RGBA keeps its alpha, enlarged by Lanczos) `scale` times as large.

        Tiles fade into each other where they overlap. Raises OutOfMemory, and whatever `on_tile` raises.
        """
        pixels = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0).permute(2, 0, 1)
        height, width = pixels.shape[1:]
        boxes = list(_tiles(width, height, tiling))
        total = torch.zeros(3, height * self.scale, width * self.scale)
        weight = torch.zeros(1, *total.shape[1:])
        for done, (left, top, right, bottom) in enumerate(boxes, start=1):
            tile = self._run(pixels[:, top:bottom, left:right])
            fade = _fade((left, right), width, self.scale, tiling.overlap) * _fade(
                (top, bottom), height, self.scale, tiling.overlap
            ).unsqueeze(1)
            rows, columns = (slice(a * self.scale, b * self.scale) for a, b in ((top, bottom), (left, right)))
            total[:, rows, columns] += tile * fade
            weight[:, rows, columns] += fade
            if on_tile is not None:
                on_tile(done, len(boxes))
        result = (total / weight).mul(255).round().clamp(0, 255).to(torch.uint8)
        return _with_alpha(Image.fromarray(result.permute(1, 2, 0).numpy()), image)

    def _run(self, pixels: Tensor) -> Tensor:
        """[3, h, w] -> [3, h * scale, w * scale] in float32 on the CPU; half precision that overflows is done again."""
        plan = self._device.plan
        with self._device.running(self._descriptor.model):
            result = self._descriptor(pixels.unsqueeze(0).to(plan.device, self._dtype))[0].float().cpu()
        if self._dtype == torch.float32 or bool(torch.isfinite(result).all()):
            return result.nan_to_num(0.0)
        log.warning("an upscaler overflowed in half precision and goes on in float32")
        with self._device.running(self._descriptor.model):
            self._descriptor.model.float()
            self._dtype = torch.float32
        return self._run(pixels)


def _tiles(width: int, height: int, tiling: Tiling) -> Iterator[tuple[int, int, int, int]]:
    """(left, top, right, bottom) boxes, row by row, that cover the picture and overlap by at least `overlap`."""
    for top, bottom in _spans(height, tiling):
        for left, right in _spans(width, tiling):
            yield left, top, right, bottom


def _spans(length: int, tiling: Tiling) -> list[tuple[int, int]]:
    side = max(tiling.side, SMALLEST_TILE)
    if tiling.side <= 0 or length <= side:
        return [(0, length)]
    step = max(side - max(tiling.overlap, 0), SMALLEST_TILE // 2)
    count = -(-(length - side) // step) + 1
    starts = [(length - side) * index // (count - 1) for index in range(count)]
    return [(start, start + side) for start in starts]


def _fade(span: tuple[int, int], length: int, scale: int, overlap: int) -> Tensor:
    """How much each pixel of a tile counts along one axis: rising over the overlap where there is a neighbour."""
    size = (span[1] - span[0]) * scale
    ramp = max(1, min(overlap * scale, size // 2))
    position = torch.arange(size, dtype=torch.float32) + 0.5
    weight = torch.ones(size)
    if span[0] > 0:
        weight = torch.minimum(weight, position / ramp)
    if span[1] < length:
        weight = torch.minimum(weight, position.flip(0) / ramp)
    return weight


def _with_alpha(result: Image.Image, source: Image.Image) -> Image.Image:
    if source.mode == "RGBA":
        result.putalpha(source.getchannel("A").resize(result.size, Image.Resampling.LANCZOS))
    return result
