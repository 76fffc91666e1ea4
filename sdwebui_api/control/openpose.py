"""OpenPose keypoints as JSON, drawn as the coloured skeletons that control networks were trained on.

The format: `{"canvas_width", "canvas_height", "people": [{"pose_keypoints_2d": [x, y, confidence, …], …}]}`, with
`face_keypoints_2d`, `hand_left_keypoints_2d` and `hand_right_keypoints_2d` optional; 18 body points (COCO's order with
the neck second), 21 points a hand, any number of face points. Coordinates are pixels, or shares of the canvas when
all of a list are at most 1. Points of confidence 0 are absent.

Limbs and colours are those of CMU's OpenPose (`src/openpose/pose/poseParameters`).
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sdwebui_api.errors import BadRequest, PayloadTooLarge

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import Picture

Point = tuple[float, float] | None
Colour = tuple[int, int, int]

MAX_SIDE = 8192
MAX_PIXELS = 4096 * 4096
MAX_PEOPLE = 500
MAX_POINTS = 200

_LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
_RAINBOW: tuple[Colour, ...] = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
    (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255),
    (255, 0, 170), (255, 0, 85),
)  # fmt: skip
_FINGERS = tuple((0 if joint == 1 else finger + joint - 1, finger + joint) for finger in range(0, 20, 4)
                 for joint in range(1, 5))  # fmt: skip
_STICK, _JOINT, _FACE_POINT, _FINGER = 4, 4, 3, 2
_LIMB_SHADE = 0.6
_HAND_POINT, _FACE_COLOUR = (0, 0, 255), (255, 255, 255)


def render_pose(pose: Mapping[str, Any], field: str) -> Picture:
    """uint8 `[canvas_height, canvas_width, 3]`. Raises BadRequest naming the part of `field` that is malformed."""
    width, height = (_side(pose, name, field) for name in ("canvas_width", "canvas_height"))
    if width * height > MAX_PIXELS:
        raise PayloadTooLarge(f"The canvas is larger than {MAX_PIXELS} pixels", field=f"{field}.canvas_width")
    people = pose.get("people") or []
    if not isinstance(people, Sequence) or isinstance(people, str) or len(people) > MAX_PEOPLE:
        raise BadRequest(f"Expected a list of at most {MAX_PEOPLE} people", field=f"{field}.people")
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    for index, person in enumerate(people):
        place = f"{field}.people[{index}]"
        if not isinstance(person, Mapping):
            raise BadRequest("Expected an object", field=place)
        _draw_body(canvas, _points(person, "pose_keypoints_2d", place, (width, height)))
        for hand in ("hand_left_keypoints_2d", "hand_right_keypoints_2d"):
            _draw_hand(canvas, _points(person, hand, place, (width, height)))
        _draw_face(canvas, _points(person, "face_keypoints_2d", place, (width, height)))
    return canvas


# -- reading -------------------------------------------------------------------------------------------------------


def _side(pose: Mapping[str, Any], name: str, field: str) -> int:
    value = pose.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= MAX_SIDE:
        raise BadRequest(f"Expected a number from 1 to {MAX_SIDE}", field=f"{field}.{name}")
    return int(value)


def _points(person: Mapping[str, Any], name: str, place: str, size: tuple[int, int]) -> list[Point]:
    given = person.get(name) or []
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) % 3 or len(given) > 3 * MAX_POINTS:
        raise BadRequest("Expected x, y and confidence of each point", field=f"{place}.{name}")
    if any(isinstance(number, bool) or not isinstance(number, (int, float)) for number in given):
        raise BadRequest("Expected numbers", field=f"{place}.{name}")
    if not all(math.isfinite(number) and abs(number) <= 10 * MAX_SIDE for number in given):
        raise BadRequest("Expected points near the canvas", field=f"{place}.{name}")
    triples = [tuple(map(float, given[index : index + 3])) for index in range(0, len(given), 3)]
    shares = all(0 <= x <= 1 and 0 <= y <= 1 for x, y, confidence in triples if confidence > 0)
    scale_x, scale_y = size if shares else (1, 1)
    return [(x * scale_x, y * scale_y) if confidence > 0 else None for x, y, confidence in triples]


# -- drawing -------------------------------------------------------------------------------------------------------


def _draw_body(canvas: Picture, points: Sequence[Point]) -> None:
    for colour, (first, second) in zip(_RAINBOW, _LIMBS, strict=False):
        start, end = _at(points, first), _at(points, second)
        if start is not None and end is not None:
            _draw_limb(canvas, start, end, tuple(int(value * _LIMB_SHADE) for value in colour))
    for colour, point in zip(_RAINBOW, points, strict=False):
        _draw_point(canvas, point, _JOINT, colour)


def _draw_limb(canvas: Picture, start: tuple[float, float], end: tuple[float, float], colour: Sequence[int]) -> None:
    """A slender ellipse from joint to joint."""
    across, down = end[0] - start[0], end[1] - start[1]
    middle = int((start[0] + end[0]) / 2), int((start[1] + end[1]) / 2)
    axes = int(math.hypot(across, down) / 2), _STICK
    outline = cv2.ellipse2Poly(middle, axes, int(math.degrees(math.atan2(down, across))), 0, 360, 1)
    cv2.fillConvexPoly(canvas, outline, tuple(colour))


def _draw_hand(canvas: Picture, points: Sequence[Point]) -> None:
    for index, (first, second) in enumerate(_FINGERS):
        start, end = _at(points, first), _at(points, second)
        if start is not None and end is not None:
            red, green, blue = colorsys.hsv_to_rgb(index / len(_FINGERS), 1.0, 1.0)
            colour = int(red * 255), int(green * 255), int(blue * 255)
            cv2.line(canvas, _whole(start), _whole(end), colour, thickness=_FINGER)
    for point in points:
        _draw_point(canvas, point, _JOINT, _HAND_POINT)


def _draw_face(canvas: Picture, points: Sequence[Point]) -> None:
    for point in points:
        _draw_point(canvas, point, _FACE_POINT, _FACE_COLOUR)


def _draw_point(canvas: Picture, point: Point, radius: int, colour: Colour) -> None:
    if point is not None:
        cv2.circle(canvas, _whole(point), radius, colour, thickness=-1)


def _at(points: Sequence[Point], index: int) -> Point:
    return points[index] if index < len(points) else None


def _whole(point: tuple[float, float]) -> tuple[int, int]:
    return int(point[0]), int(point[1])
