"""Top-down search: boxes by YOLOX, then the points in each box by RTMPose or DWPose.

YOLOX: Ge et al. 2021, arXiv 2107.08430. RTMPose: Jiang et al. 2023, arXiv 2303.07399; its networks tell the column and
the row of each point on two scales ("SimCC"). Pictures are prepared as the ControlNet extension 1.1.455 does
(`annotator/openpose/cv_ox_det.py`, `cv_ox_pose.py`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

from sdwebui_api.errors import UnusableModel
from sdwebui_api.imaging.boxes import without_overlaps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdwebui_api.control.preprocessor import Picture

    Floats = NDArray[np.float32]

PERSON = 0
ANIMALS = range(14, 24)
"""COCO's classes, from bird to giraffe."""
MOST_BOXES = 100

_STRIDES = (8, 16, 32)
_SIDE, _GREY = 640, 114
_LEAST_SCORE, _OVERLAP = 0.3, 0.45
_MARGIN = 1.25
# ImageNet's statistics, of pixels from 0 to 255.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class OnnxModel(Protocol):
    """An `engine.onnx_network.OnnxNetwork`."""

    @property
    def size(self) -> tuple[int, int] | None: ...

    def run(self, x: Floats) -> list[Floats]: ...


def find_boxes(rgb: Picture, detector: OnnxModel, classes: Collection[int]) -> Floats:
    """`[n, 4]`: left, top, right, bottom of what belongs to `classes`, class by class, the surest first."""
    width, height = detector.size or (_SIDE, _SIDE)
    scale = min(width / rgb.shape[1], height / rgb.shape[0])
    canvas = np.full((height, width, 3), _GREY, dtype=np.uint8)
    small = cv2.resize(rgb, (max(int(rgb.shape[1] * scale), 1), max(int(rgb.shape[0] * scale), 1)))
    canvas[: small.shape[0], : small.shape[1]] = small
    found = _decoded(detector.run(canvas.transpose(2, 0, 1)[None].astype(np.float32))[0], width, height)
    scores = found[:, 4:5] * found[:, 5:]
    boxes = np.concatenate([found[:, :2] - found[:, 2:4] / 2, found[:, :2] + found[:, 2:4] / 2], axis=1) / scale
    return np.concatenate([_of_class(boxes, scores[:, number]) for number in classes])[:MOST_BOXES]


def _decoded(found: Floats, width: int, height: int) -> Floats:
    """`[1, n, 5 + classes]` in units of cells → `[n, …]` in pixels. Raises UnusableModel."""
    grids = [
        (np.stack(np.meshgrid(np.arange(width // stride), np.arange(height // stride)), axis=2).reshape(-1, 2), stride)
        for stride in _STRIDES
    ]
    corners = np.concatenate([grid for grid, _ in grids])
    strides = np.concatenate([np.full((len(grid), 1), stride) for grid, stride in grids])
    if found.ndim != 3 or found.shape[1] != len(corners) or found.shape[2] < 5 + max(ANIMALS) + 1:
        raise UnusableModel(f"the detector's output {list(found.shape)} is not that of YOLOX for COCO's classes")
    middles = (found[0, :, :2] + corners) * strides
    # Larger ones than the picture's fourfold are no boxes; exp would overflow.
    sides = np.exp(np.minimum(found[0, :, 2:4], np.log(4.0 * max(width, height)))) * strides
    return np.concatenate([middles, sides, found[0, :, 4:]], axis=1).astype(np.float32)


def _of_class(boxes: Floats, scores: Floats) -> Floats:
    sure = np.nonzero(np.isfinite(boxes).all(axis=1) & (scores > _LEAST_SCORE))[0]
    sure = sure[np.argsort(-scores[sure], kind="stable")]
    return boxes[sure][without_overlaps(boxes[sure], _OVERLAP)]


def find_points(rgb: Picture, box: Floats, network: OnnxModel, size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Points `[n, 2]` in pixels of the picture and their scores `[n]`. size: of the network's input, if it tells none.

    Raises UnusableModel.
    """
    width, height = network.size or size
    middle, area = _area(box, width / height)
    scale = width / area[0]
    matrix = np.array([[scale, 0, width / 2 - scale * middle[0]], [0, scale, height / 2 - scale * middle[1]]])
    cut = cv2.warpAffine(rgb, matrix, (width, height), flags=cv2.INTER_LINEAR)
    x = ((cut.astype(np.float32) - _MEAN) / _STD).transpose(2, 0, 1)[None].astype(np.float32)
    places, scores = _simcc(network.run(x), width, height)
    return (places * area + middle - area / 2).astype(np.float32), scores


def _area(box: Floats, aspect: float) -> tuple[Floats, Floats]:
    """Middle, and width and height: a quarter larger than the box, widened to `aspect`."""
    middle = np.asarray((box[:2] + box[2:]) / 2, dtype=np.float32)
    width, height = np.maximum(box[2:] - box[:2], 1.0) * _MARGIN
    area = (width, width / aspect) if width > height * aspect else (height * aspect, height)
    return middle, np.array(area, dtype=np.float32)


def _simcc(outputs: list[Floats], width: int, height: int) -> tuple[Floats, Floats]:
    """`[1, n, columns]` and `[1, n, rows]` → places `[n, 2]` from 0 to 1, and scores."""
    if len(outputs) != 2 or any(output.ndim != 3 for output in outputs) or outputs[0].shape[1] != outputs[1].shape[1]:
        raise UnusableModel("the network does not tell columns and rows of points, as RTMPose does")
    across, down = outputs[0][0], outputs[1][0]
    places = np.stack([across.argmax(1) / across.shape[1], down.argmax(1) / down.shape[1]], axis=1)
    return places.astype(np.float32), np.minimum(across.max(1), down.max(1)).astype(np.float32)
