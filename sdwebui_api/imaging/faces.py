"""Faces cut out upright at 512x512, as face restorers were taught to see them, and laid back where they were.

Follows facexlib `utils/face_restoration_helper.py`, whose crops A1111 gives to GFPGAN and CodeFormer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
"""[h, w, 3], RGB."""
Landmarks = NDArray[np.float32]
"""[5, 2], x and y of the eyes, the nose's tip and the corners of the mouth, each pair from left to right."""

SIDE = 512
TEMPLATE: Landmarks = np.array(
    [
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ],
    dtype=np.float32,
)
"""Where they lie in the crops of FFHQ."""
SMALLEST_EYE_DISTANCE = 5.0
_OUTSIDE = (132, 133, 135)
_RIM = SIDE // 20
_BLUR = 2 * _RIM + 1


@dataclass(frozen=True)
class FaceCrop:
    """One face, upright. `matrix` [2, 3] leads from the picture to the crop."""

    pixels: Pixels
    matrix: NDArray[np.float64]


def cut_out(image: Image.Image, faces: Iterable[Landmarks]) -> list[FaceCrop]:
    """A crop per face. Faces too small to tell anything, and landmarks that are no face, are left out."""
    pixels = np.asarray(image.convert("RGB"))
    found = []
    for landmarks in faces:
        if not np.isfinite(landmarks).all() or np.linalg.norm(landmarks[1] - landmarks[0]) < SMALLEST_EYE_DISTANCE:
            continue
        matrix: Any = cv2.estimateAffinePartial2D(landmarks, TEMPLATE, method=cv2.LMEDS)[0]
        if matrix is None or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-8:
            continue
        crop: Any = cv2.warpAffine(pixels, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_CONSTANT, borderValue=_OUTSIDE)
        found.append(FaceCrop(crop, matrix))
    return found


def lay_back(image: Image.Image, faces: Iterable[tuple[FaceCrop, Pixels]]) -> Image.Image:
    """`image` in RGB with every crop's new pixels in its place, fading out towards the crop's edges."""
    canvas = np.array(image.convert("RGB"))
    for crop, pixels in faces:
        back: Any = cv2.invertAffineTransform(crop.matrix)
        left, top, right, bottom = _box(back, canvas.shape[1], canvas.shape[0])
        if left >= right or top >= bottom:
            continue
        back[:, 2] -= (left, top)
        size = (right - left, bottom - top)
        weight: Any = cv2.warpAffine(_soft_square(), back, size)[..., None]
        face: Any = cv2.warpAffine(pixels, back, size, borderMode=cv2.BORDER_REPLICATE)
        part = canvas[top:bottom, left:right]
        part[:] = np.round(weight * face + (1.0 - weight) * part).clip(0, 255).astype(np.uint8)
    return Image.fromarray(canvas)


def _box(back: NDArray[np.float64], width: int, height: int) -> tuple[int, int, int, int]:
    """Where a crop lies in a picture of this size: (left, top, right, bottom)."""
    corners = np.array([(0, 0, 1), (SIDE, 0, 1), (0, SIDE, 1), (SIDE, SIDE, 1)]) @ back.T
    left, top = np.floor(corners.min(axis=0)).astype(int)
    right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 1
    return max(0, int(left)), max(0, int(top)), min(width, int(right)), min(height, int(bottom))


@cache
def _soft_square() -> NDArray[np.float32]:
    """How much each pixel of a crop counts: 0 at the rim, 1 inside."""
    square = np.zeros((SIDE, SIDE), dtype=np.float32)
    square[_RIM:-_RIM, _RIM:-_RIM] = 1.0
    blurred: Any = cv2.GaussianBlur(square, (_BLUR, _BLUR), 0)
    return np.asarray(blurred, dtype=np.float32)
