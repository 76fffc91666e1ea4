"""People by DWPose (Yang et al. 2023, arXiv 2307.15880) and animals by RTMPose, ONNX files that run in onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdwebui_api.control.poses.boxes import ANIMALS, PERSON, OnnxModel, find_boxes, find_points
from sdwebui_api.control.poses.drawing import draw_animals
from sdwebui_api.control.poses.people import ANIMAL_POINTS, Person, Point, pose_json
from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorResult
from sdwebui_api.control.preprocessors.onnx_files import onnx_file
from sdwebui_api.control.preprocessors.openpose import FOLDER, drawn
from sdwebui_api.control.preprocessors.sizes import as_rgb, resize_padded
from sdwebui_api.control.weights import WeightFile
from sdwebui_api.errors import UnusableModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdwebui_api.control.preprocessor import Picture, PreprocessorContext

    Floats = NDArray[np.float32]

DETECTOR = WeightFile(FOLDER, "yolox_l.onnx", "yzd-v/DWPose")
WHOLE_BODY = WeightFile(FOLDER, "dw-ll_ucoco_384.onnx", "yzd-v/DWPose")
ANIMAL = WeightFile(FOLDER, "rtmpose-m_ap10k_256.onnx", "bdsqlsz/qinglong_controlnet-lllite")

WHOLE_BODY_POINTS, WHOLE_BODY_SIZE, ANIMAL_SIZE = 133, (288, 384), (256, 256)
_BODY = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""OpenPose's points as COCO-WholeBody numbers them; the neck lies between the shoulders."""
_SHOULDERS = (5, 6)
_FACE, _LEFT_HAND, _RIGHT_HAND = slice(23, 91), slice(91, 112), slice(112, 133)
_EYES = (14, 15)
_LEAST_SCORE = 0.3


def people(image: Picture, *, resolution: int, context: PreprocessorContext, **_: Any) -> PreprocessorResult:
    name = "dw_openpose_full"
    padded, unpad = resize_padded(as_rgb(image), resolution)
    height, width = unpad(padded).shape[:2]
    with onnx_file(context, name, DETECTOR) as detector, onnx_file(context, name, WHOLE_BODY) as points:
        boxes = find_boxes(padded, detector, (PERSON,))
        if not len(boxes):  # drawings are often not taken for people, and yet their points are found
            boxes = np.array([[0, 0, padded.shape[1], padded.shape[0]]], dtype=np.float32)
        found = [person_of(*_points(padded, box, points, WHOLE_BODY_SIZE, WHOLE_BODY_POINTS)) for box in boxes]
    found = [
        person for person in found if any(person.body) or any(person.face) or person.left_hand or person.right_hand
    ]
    return drawn(found, found, width, height)


def animals(image: Picture, *, resolution: int, context: PreprocessorContext, **_: Any) -> PreprocessorResult:
    name = "animal_openpose"
    padded, unpad = resize_padded(as_rgb(image), resolution)
    height, width = unpad(padded).shape[:2]
    with onnx_file(context, name, DETECTOR) as detector, onnx_file(context, name, ANIMAL) as points:
        boxes = find_boxes(padded, detector, ANIMALS)
        found = [_points(padded, box, points, ANIMAL_SIZE, ANIMAL_POINTS) for box in boxes]
    seen = [tuple(_point(place, score > 0) for place, score in zip(*one, strict=True)) for one in found]
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    draw_animals(canvas, seen)
    return PreprocessorResult(canvas, poses=[pose_json((), seen, width, height)])


def _points(rgb: Picture, box: Floats, model: OnnxModel, size: tuple[int, int], count: int) -> tuple[Floats, Floats]:
    places, scores = find_points(rgb, box, model, size)
    if len(scores) != count:
        raise UnusableModel(f"the network finds {len(scores)} points instead of {count}")
    return places, scores


def person_of(places: Floats, scores: Floats) -> Person:
    """From COCO-WholeBody's 133 points, `[133, 2]` and `[133]`."""
    seen = [_point(place, score >= _LEAST_SCORE) for place, score in zip(places, scores, strict=True)]
    neck = _point(places[list(_SHOULDERS)].mean(axis=0), all(scores[list(_SHOULDERS)] > _LEAST_SCORE))
    body = tuple(neck if index is None else seen[index] for index in _BODY)
    face, left, right = (tuple(seen[part]) if any(seen[part]) else () for part in (_FACE, _LEFT_HAND, _RIGHT_HAND))
    if face:  # OpenPose's faces have the pupils too
        face = (*face, *(body[index] for index in _EYES))
    return Person(body, face, left, right)


def _point(place: Floats, seen: bool | np.bool_) -> Point:
    return (float(place[0]), float(place[1])) if seen else None


PREPROCESSORS = (
    Preprocessor("dw_openpose_full", "dw_openpose_full", people, tags=("OpenPose",)),
    Preprocessor("animal_openpose", "animal_openpose", animals, tags=("OpenPose",)),
)
