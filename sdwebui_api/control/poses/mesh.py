"""MediaPipe's face mesh, drawn as the control network for it was trained (CrucibleAI/ControlNetMediaPipeFace)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdwebui_api.control.preprocessor import Picture

    Mesh = NDArray[np.float32]
    """`[478, 2]`: x and y as shares of the picture."""

MESH_POINTS = 478
SMALLEST_FACE = 64
"""Pixels of a face's shorter side; smaller ones are not drawn."""

_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
    136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109, 10,
)  # fmt: skip
_LEFT_EYE = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466, 263)
_RIGHT_EYE = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246, 33)
_LEFT_BROW = ((276, 283, 282, 295, 285), (300, 293, 334, 296, 336))
_RIGHT_BROW = ((46, 53, 52, 65, 55), (70, 63, 105, 66, 107))
_LIPS = (
    (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185, 61),
    (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191, 78),
)
LINES: tuple[tuple[tuple[tuple[int, ...], ...], tuple[int, int, int]], ...] = (
    ((_OVAL,), (10, 200, 10)),
    ((_LEFT_EYE,), (10, 200, 180)),
    (_LEFT_BROW, (10, 220, 180)),
    ((_RIGHT_EYE,), (180, 200, 10)),
    (_RIGHT_BROW, (180, 220, 10)),
    (_LIPS, (10, 180, 10)),
)
"""Chains of the mesh's points and their colours."""
PUPILS = ((468, (250, 200, 10)), (473, (10, 200, 250)))

_THICKNESS, _PUPIL = 2, 2


def draw_meshes(canvas: Picture, meshes: Iterable[Mesh]) -> None:
    """Onto uint8 `[H, W, 3]`; faces that are too small are left out."""
    size = np.array([canvas.shape[1], canvas.shape[0]], dtype=np.float32)
    for mesh in meshes:
        if ((mesh.max(axis=0) - mesh.min(axis=0)) * size).min() >= SMALLEST_FACE:
            _draw(canvas, mesh, size)


def _draw(canvas: Picture, mesh: Mesh, size: Mesh) -> None:
    inside = np.asarray(((mesh >= 0) & (mesh <= 1)).all(axis=1))
    places = np.minimum(np.floor(mesh * size), size - 1).astype(int)
    for chains, colour in LINES:
        for first, second in (pair for chain in chains for pair in pairwise(chain)):
            if inside[first] and inside[second]:
                start, end = (tuple(int(side) for side in places[index]) for index in (first, second))
                cv2.line(canvas, start, end, colour, _THICKNESS)
    for index, colour in PUPILS:
        if inside[index]:
            x, y = places[index]
            canvas[max(y - _PUPIL, 0) : y + _PUPIL, max(x - _PUPIL, 0) : x + _PUPIL] = colour
