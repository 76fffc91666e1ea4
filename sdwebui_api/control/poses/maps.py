"""Heat maps and pictures at the sizes that OpenPose's search works on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdwebui_api.control.preprocessor import Picture

    Map = NDArray[np.float32]

Network = Callable[["Map"], "Map"]
"""BGR `[H, W, 3]` in [-0.5, 0.5], sides multiples of 8 → `[H/8, W/8, maps]`."""

FLOW_MAPS = 38
"""The first maps of a body's network; those of the points follow."""
BOX = 368
"""The side of a person as the networks were trained."""

_STRIDE, _PADDING, _BLUR = 8, 128, 3.0
_BODY_SCALE, _HAND_SCALES, _HAND_SIDE, _HAND_SOFTENING, _FACE_SIDE = 0.5, (0.5, 1.0, 1.5, 2.0), 128, 0.8, 384
_MOST_PIXELS = 2**22
"""That a network sees at once: very long pictures are shrunk further than others."""


@dataclass(frozen=True)
class BodyMaps:
    """A `body.BodyMapsOf`: the network's maps, enlarged one by one."""

    found: Map
    padded: tuple[int, int]
    """Width and height of what the network saw, and below without its padding."""
    inside: tuple[int, int]
    width: int
    height: int

    def points(self, part: int) -> Map:
        return self._enlarged(FLOW_MAPS + part, 1)[:, :, 0]

    def flow(self, first: int) -> Map:
        return self._enlarged(first, 2)

    def _enlarged(self, first: int, count: int) -> Map:
        maps = np.ascontiguousarray(self.found[:, :, first : first + count])
        maps = resized(maps, self.padded)[: self.inside[1], : self.inside[0]]
        enlarged = resized(maps, (self.width, self.height))
        return enlarged.reshape(self.height, self.width, count)


def body_maps(rgb: Picture, network: Network) -> BodyMaps:
    """Of a picture `[H, W, 3]`, whose height is brought to half a person's box."""
    height, width = rgb.shape[:2]
    scale = min(_BODY_SCALE * BOX / height, math.sqrt(_MOST_PIXELS / (height * width)))
    small = resized(rgb[:, :, ::-1], (max(int(width * scale), 1), max(int(height * scale), 1)))
    padded = _padded(small)
    sizes = (padded.shape[1], padded.shape[0]), (small.shape[1], small.shape[0])
    return BodyMaps(network(_prepared(padded)), *sizes, width, height)


def hand_maps(rgb: Picture, network: Network) -> Map:
    """`[128, 128, maps]`: the mean of four sizes of a crop."""
    soft = cv2.GaussianBlur(np.ascontiguousarray(rgb[:, :, ::-1]), (0, 0), _HAND_SOFTENING)
    found: list[Map] = []
    for scale in _HAND_SCALES:
        side = int(scale * BOX)
        maps = network(_prepared(resized(soft, (side, side))))  # all four sides are multiples of 8
        found.append(resized(resized(maps, (side, side)), (_HAND_SIDE, _HAND_SIDE)))
    return np.asarray(np.mean(found, axis=0), dtype=np.float32)


def face_maps(rgb: Picture, network: Network) -> Map:
    """`[H, W, maps]` of a crop."""
    height, width = rgb.shape[:2]
    found = network(_prepared(resized(rgb[:, :, ::-1], (_FACE_SIDE, _FACE_SIDE))))
    return _stretched(found, width, height)


def smoothed(likely: Map) -> NDArray[np.float64]:
    """By a Gaussian of three pixels, the border mirrored."""
    reach = int(4 * _BLUR + 0.5)
    window = 2 * reach + 1
    soft = cv2.GaussianBlur(likely.astype(np.float64), (window, window), _BLUR, borderType=cv2.BORDER_REFLECT)
    return np.asarray(soft, dtype=np.float64)


def resized(array: Any, size: tuple[int, int]) -> Any:
    """`[H, W, C]` to `size` (width, height): by area when it shrinks, by Lanczos's window when it grows."""
    shrinks = sum(size) < array.shape[0] + array.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
    # OpenCV takes at most four channels at once here.
    parts = (np.ascontiguousarray(array[:, :, first : first + 4]) for first in range(0, array.shape[2], 4))
    enlarged = [cv2.resize(part, size, interpolation=how).reshape(size[1], size[0], -1) for part in parts]
    return enlarged[0] if len(enlarged) == 1 else np.concatenate(enlarged, axis=2)


def _padded(image: Picture) -> Picture:
    """Grey at the right and the bottom, up to multiples of 8."""
    height, width = image.shape[:2]
    margins = ((0, -height % _STRIDE), (0, -width % _STRIDE), (0, 0))
    return np.pad(image, margins, constant_values=_PADDING)


def _prepared(image: Picture) -> Map:
    return np.asarray(image.astype(np.float32) / 256.0 - 0.5, dtype=np.float32)


def _stretched(maps: Map, width: int, height: int) -> Map:
    """Linearly, so that the corners' middles stay in the corners."""
    rows = np.linspace(0.0, maps.shape[0] - 1, height, dtype=np.float32)
    columns = np.linspace(0.0, maps.shape[1] - 1, width, dtype=np.float32)
    across, down = np.meshgrid(columns, rows)
    layers = [
        cv2.remap(np.ascontiguousarray(maps[:, :, n]), across, down, cv2.INTER_LINEAR) for n in range(maps.shape[2])
    ]
    return np.stack(layers, axis=2)
