"""Lines of one pixel's width kept so when a map is resized: ridges, and thinning by hit-or-miss patterns.

Thinning as in Gonzalez & Woods, "Digital Image Processing", 9.5; the patterns are the usual eight, of which two
are given and the others are their rotations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import Picture

_ROUNDS = 32

_LINES = (
    np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0]], dtype=np.uint8),
    np.array([[0, 1, 0], [0, 1, 0], [0, 1, 0]], dtype=np.uint8),
    np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.uint8),
    np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=np.uint8),
)
# 1: white, -1: black, 0: either
_THINNING = (
    np.array([[-1, -1, -1], [0, 1, 0], [1, 1, 1]], dtype=np.int32),
    np.array([[0, -1, -1], [1, 1, -1], [0, 1, 0]], dtype=np.int32),
)
_PRUNING = (
    np.array([[-1, -1, -1], [-1, 1, -1], [0, 0, -1]], dtype=np.int32),
    np.array([[-1, -1, -1], [-1, 1, -1], [-1, 0, 0]], dtype=np.int32),
)


def keep_ridges(image: Picture) -> Picture:
    """uint8 `[H, W]`: pixels that no neighbour outshines in at least one of four directions; the rest black."""
    kept = np.zeros_like(image)
    for line in _LINES:
        np.putmask(kept, np.asarray(cv2.dilate(image, line)) == image, image)
    return kept


def thin(image: Picture, *, prune: bool) -> Picture:
    """uint8 `[H, W]` of 0 and 255: lines made one pixel wide; with `prune` their loose ends lose a pixel."""
    image = image.copy()
    for _ in range(_ROUNDS):
        if not _remove(image, _rotations(_THINNING)):
            break
    if prune:
        _remove(image, _rotations(_PRUNING))
    return image


def _rotations(patterns: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    return [np.rot90(pattern, k=turns) for turns in range(4) for pattern in patterns]


def _remove(image: Picture, patterns: list[np.ndarray]) -> bool:
    """Blacken, pattern after pattern, the pixels that match; whether there were any."""
    changed = False
    for pattern in patterns:
        hits = np.asarray(cv2.morphologyEx(image, cv2.MORPH_HITMISS, np.ascontiguousarray(pattern))) > 127
        if hits.any():
            image[hits] = 0
            changed = True
    return changed
