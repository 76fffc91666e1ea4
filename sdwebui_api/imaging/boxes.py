"""Boxes that detectors find in pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def without_overlaps(boxes: NDArray[np.float32], limit: float) -> list[int]:
    """Indices of the boxes [n, 4] (left, top, right, bottom) that no earlier one covers by more than `limit`."""
    kept: list[int] = []
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    for index, box in enumerate(boxes):
        others = boxes[kept]
        sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
        shared = np.prod(np.maximum(sides, 0), axis=1)
        if not (shared > limit * (areas[index] + areas[kept] - shared)).any():
            kept.append(index)
    return kept
