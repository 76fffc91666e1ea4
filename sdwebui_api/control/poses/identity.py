"""Faces and whose they are, by InsightFace's networks: SCRFD (Guo et al. 2021, arXiv 2105.04714) finds them, ArcFace
(Deng et al. 2018, arXiv 1801.07698) describes them by 512 numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sdwebui_api.control.poses.boxes import OnnxModel
from sdwebui_api.errors import UnusableModel
from sdwebui_api.imaging.boxes import without_overlaps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdwebui_api.control.preprocessor import Picture

    Floats = NDArray[np.float32]

IDENTITY = 512
"""Numbers that describe a face."""

_SIDE, _STRIDES, _ANCHORS = 640, (8, 16, 32), 2
_LEAST_SCORE, _OVERLAP = 0.5, 0.4
_FARTHEST = 1e4
"""Pixels from the corner at which a landmark may still lie."""
_CROP = 112
_TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
"""Where eyes, nose and the corners of the mouth lie in the crops that ArcFace was trained on."""


@dataclass(frozen=True, eq=False)
class Face:
    """box: left, top, right, bottom; landmarks: `[5, 2]`, eyes, nose, corners of the mouth; both in pixels."""

    box: Floats
    landmarks: Floats

    @property
    def area(self) -> float:
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


def find_faces(rgb: Picture, detector: OnnxModel) -> list[Face]:
    """The surest first. Raises UnusableModel when `detector` is another network."""
    width, height = detector.size or (_SIDE, _SIDE)
    scale = min(width / rgb.shape[1], height / rgb.shape[0])
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    small = cv2.resize(rgb, (max(int(rgb.shape[1] * scale), 1), max(int(rgb.shape[0] * scale), 1)))
    canvas[: small.shape[0], : small.shape[1]] = small
    x = ((canvas.astype(np.float32) - 127.5) / 128.0).transpose(2, 0, 1)[None]
    scores, boxes, landmarks = _decoded(detector.run(x), width, height)
    usable = np.isfinite(boxes).all(axis=1) & (np.abs(landmarks) < _FARTHEST).all(axis=(1, 2))
    sure = np.nonzero(usable & (scores >= _LEAST_SCORE))[0]
    sure = sure[np.argsort(-scores[sure], kind="stable")]
    kept = sure[without_overlaps(boxes[sure], _OVERLAP)]
    return [Face(boxes[index] / scale, landmarks[index] / scale) for index in kept]


def _decoded(outputs: list[Floats], width: int, height: int) -> tuple[Floats, Floats, Floats]:
    """Scores `[n]`, boxes `[n, 4]` and landmarks `[n, 5, 2]` in pixels, from what is told of each stride's cells."""
    flat = [output.reshape(-1, output.shape[-1]) for output in outputs if output.ndim in (2, 3)]
    kinds = [[part for part in flat if part.shape[1] == length] for length in (1, 4, 10)]
    counts = [_ANCHORS * (height // stride) * (width // stride) for stride in _STRIDES]
    if any([len(part) for part in kind] != counts for kind in kinds):
        raise UnusableModel("the detector's outputs are not those of SCRFD with landmarks")
    scores, distances, offsets = (np.concatenate(kind).astype(np.float32) for kind in kinds)
    grids = [
        np.stack(np.meshgrid(np.arange(width // stride), np.arange(height // stride)), axis=2).reshape(-1, 2) * stride
        for stride in _STRIDES
    ]
    middles = np.repeat(np.concatenate(grids), _ANCHORS, axis=0).astype(np.float32)
    strides = np.repeat(np.array(_STRIDES, dtype=np.float32), counts)[:, None]
    boxes = np.concatenate([middles - distances[:, :2] * strides, middles + distances[:, 2:] * strides], axis=1)
    landmarks = middles[:, None] + offsets.reshape(-1, 5, 2) * strides[:, None]
    return scores[:, 0], boxes, landmarks


def identity(rgb: Picture, face: Face, network: OnnxModel) -> Floats:
    """`[512]`, not normalised. Raises UnusableModel when `network` is another network."""
    crop = cv2.warpAffine(rgb, _upright(face.landmarks), (_CROP, _CROP), borderValue=(0, 0, 0))
    x = ((crop.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[None]
    found = network.run(x)
    if len(found) != 1 or found[0].size != IDENTITY:
        raise UnusableModel(f"the network does not describe a face by {IDENTITY} numbers")
    return found[0].reshape(IDENTITY).astype(np.float32)


def _upright(landmarks: Floats) -> NDArray[np.float64]:
    """`[2, 3]`: the turn, scale and shift that bring the landmarks nearest to the template, by least squares."""
    given, wanted = (points[:, 0] + 1j * points[:, 1] for points in (landmarks.astype(np.float64), _TEMPLATE))
    middle, target = given.mean(), wanted.mean()
    spread = float((np.abs(given - middle) ** 2).sum())
    turn = (np.conj(given - middle) * (wanted - target)).sum() / max(spread, 1e-9)
    shift = target - turn * middle
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
