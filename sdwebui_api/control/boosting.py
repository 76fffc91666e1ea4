"""Fine depths of a network that sees little at once ("Boosting Monocular Depth", Miangoleh et al. 2021).

The picture is looked at coarsely, which gets the whole right, and finely, which gets the details; another network
merges the two. Where much happens parts of the picture are looked at by themselves, and their depths worked in.

Follows the extension (annotator/leres/leres/depthmap.py, `estimateboost`), whose numbers these are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import Picture

Depth = NDArray[np.float32]
"""`[H, W]`, in any unit."""

RECEPTIVE_FIELD = 448
"""Side of the picture that LeReS was trained on."""
MERGED = 1024
"""Side of what the merging network takes."""
_LARGEST = 1600
_MAX_ENLARGED = 4096
"""Beyond, the search for parts alone would take gigabytes."""
_CELL = 32
_WITHOUT_CUES = 0.2
"""Share of the picture that may be farther from any edge than the network sees."""


@dataclass(frozen=True)
class Booster:
    """estimate: a square picture, sides multiples of 32 → its depth. merge: a coarse and a fine look, `[1024, 1024]`
    from 0 to 1 → the merged one.
    """

    estimate: Callable[[Picture], Depth]
    merge: Callable[[Depth, Depth], Depth]

    def depth(self, rgb: Picture) -> Depth:
        """uint8 `[H, W, 3]` → `[H, W]` from about 0 to 1."""
        height, width = rgb.shape[:2]
        side, busy = best_side(rgb)
        whole = _resized(_spread(self._double(rgb, RECEPTIVE_FIELD, side)), (width, height))
        if max(width, height) < side:
            return whole
        factor = max(min(1.0, 4 * busy * side / _LARGEST), 0.2, 2 * side / _MAX_ENLARGED)
        updated = whole.copy()
        for left, top, length in parts(rgb, int(2 * side / factor), factor):
            self._work_in(rgb, whole, updated, slice(top, top + length), slice(left, left + length))
        return updated

    def _double(self, rgb: Picture, coarse: int, fine: int) -> Depth:
        looks = (self.estimate(np.asarray(cv2.resize(rgb, (side, side)), dtype=np.uint8)) for side in (coarse, fine))
        return self.merge(*(_spread(_resized(_resized(look, rgb.shape[1::-1]), (MERGED, MERGED))) for look in looks))

    def _work_in(self, rgb: Picture, whole: Depth, updated: Depth, rows: slice, columns: slice) -> None:
        """Changes `updated` in one part."""
        part, before = rgb[rows, columns], whole[rows, columns]
        if min(before.shape) < 2:
            return
        found = _spread(self._double(part, RECEPTIVE_FIELD, 2 * RECEPTIVE_FIELD))
        large = _resized(before, (MERGED, MERGED))
        merged = self.merge(_spread(large), found)
        slope, shift = np.polyfit(merged.ravel(), large.ravel(), 1) if merged.std() > 0 else (0.0, large.mean())
        fitted = _resized((merged * slope + shift).astype(np.float32), before.shape[::-1])
        share = np.asarray(cv2.resize(_soft_square(), before.shape[::-1]), dtype=np.float32)
        updated[rows, columns] = updated[rows, columns] * (1 - share) + fitted * share


def best_side(rgb: Picture) -> tuple[int, float]:
    """How large the network may see the picture and still find edges all over; and how much of it is near an edge."""
    side = min(rgb.shape[:2])
    edges = np.asarray(cv2.resize(_gradients(rgb), (side, side)))
    edges = (edges >= edges.min() + 0.4 * (edges.max() - edges.min())).astype(np.float64)
    most = min(_LARGEST, 3 * max(rgb.shape[:2])) // _CELL
    reach, near = (np.ones((n, n), dtype=np.uint8) for n in (RECEPTIVE_FIELD // _CELL, RECEPTIVE_FIELD // (4 * _CELL)))
    best, busy = RECEPTIVE_FIELD // _CELL, 1.0
    for cells in range(RECEPTIVE_FIELD // _CELL, most, RECEPTIVE_FIELD // (2 * _CELL)):
        coarse = (np.asarray(cv2.resize(_pooled(edges, side // cells), (cells, cells))) >= 0.5).astype(np.uint8)
        busy = float(np.asarray(cv2.dilate(coarse, near)).mean())
        if 1 - np.asarray(cv2.dilate(coarse, reach)).mean() > _WITHOUT_CUES:
            break
        best = cells
    return best * _CELL, busy


def parts(rgb: Picture, longer_side: int, factor: float) -> list[tuple[int, int, int]]:
    """Squares (left, top, side) of the picture's pixels in which more happens than elsewhere, the largest first.

    They are looked for in the picture enlarged to `longer_side`: twice the receptive field, and as much larger as they
    stay as busy as the whole.
    """
    height, width = rgb.shape[:2]
    scale = longer_side / max(height, width)
    size = (round(width * scale), round(height * scale))
    gradients = _gradients(np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8))
    if not gradients.any():
        return []
    gradients[gradients < gradients[gradients > 0].mean()] = 0
    busy, sums = gradients.mean(), np.asarray(cv2.integral(gradients))
    radius, step = RECEPTIVE_FIELD, int(_CELL / factor)
    found = [
        square
        for left in range(0, size[0] - 2 * radius, round(0.75 * radius))
        for top in range(0, size[1] - 2 * radius, round(0.75 * radius))
        if (square := _grown((left, top, 2 * radius), sums, float(busy), step)) is not None
    ]
    found.sort(key=lambda square: -square[2])
    return [(round(left / scale), round(top / scale), round(length / scale)) for left, top, length in found]


def _grown(
    square: tuple[int, int, int], sums: NDArray[np.float64], busy: float, step: int
) -> tuple[int, int, int] | None:
    """The largest square around `square` that is as busy as `busy`; None when it is not itself."""
    if _busyness(square, sums) < busy:
        return None
    while True:
        left, top, length = square[0] - step // 2, square[1] - step // 2, square[2] + step
        outside = left < 0 or top < 0 or top + length >= sums.shape[0] or left + length >= sums.shape[1]
        if outside or _busyness((left, top, length), sums) < busy:
            return square
        square = left, top, length


def _busyness(square: tuple[int, int, int], sums: NDArray[np.float64]) -> float:
    left, top, length = square
    right, bottom = left + length, top + length
    total = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return float(total) / length**2


def _gradients(rgb: Picture) -> NDArray[np.float64]:
    grey = rgb.astype(np.float64) @ np.array([0.2989, 0.5870, 0.1140])
    across, down = (np.asarray(cv2.Sobel(grey, cv2.CV_64F, *axes, ksize=3)) for axes in ((1, 0), (0, 1)))
    return np.abs(across) + np.abs(down)


def _pooled(image: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """The greatest of every `length` x `length` pixels; what is missing at the border counts as 0."""
    length = max(length, 1)
    padding = [(0, -side % length) for side in image.shape]
    padded = np.pad(image, padding)
    rows, columns = (side // length for side in padded.shape)
    return np.asarray(padded.reshape(rows, length, columns, length).max(axis=(1, 3)))


def _soft_square() -> Depth:
    """`[300, 300]`: 1 in the middle, 0 at the border."""
    mask = np.zeros((300, 300), dtype=np.float32)
    mask[45:255, 45:255] = 1
    mask = np.asarray(cv2.GaussianBlur(mask, (75, 75), 18), dtype=np.float32)
    return (mask - mask.min()) / (mask.max() - mask.min())


def _resized(depth: Depth, size: tuple[int, ...]) -> Depth:
    """size: width, height."""
    return np.asarray(cv2.resize(depth, (size[0], size[1]), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _spread(depth: Depth) -> Depth:
    """From 0 to 1."""
    low, high = float(depth.min()), float(depth.max())
    return np.asarray((depth - low) / max(high - low, 1e-9), dtype=np.float32)
