"""OpenPose keypoints as JSON, drawn as the coloured skeletons that control networks were trained on.

The format: `{"canvas_width", "canvas_height", "people": [{"pose_keypoints_2d": [x, y, confidence, …], …}]}`, with
`face_keypoints_2d`, `hand_left_keypoints_2d` and `hand_right_keypoints_2d` optional; 18 body points (COCO's order with
the neck second), 21 points a hand, any number of face points. Coordinates are pixels, or shares of the canvas when
all of a list are at most 1. Points of confidence 0 are absent. `animals` is optional: lists of 17 points each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sdwebui_api.control.poses.drawing import draw_animals, draw_people
from sdwebui_api.control.poses.people import Person, Point
from sdwebui_api.errors import BadRequest, PayloadTooLarge

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import Picture

MAX_SIDE = 8192
MAX_PIXELS = 4096 * 4096
MAX_PEOPLE = 500
MAX_POINTS = 200


def render_pose(pose: Mapping[str, Any], field: str) -> Picture:
    """uint8 `[canvas_height, canvas_width, 3]`. Raises BadRequest naming the part of `field` that is malformed."""
    width, height = (_side(pose, name, field) for name in ("canvas_width", "canvas_height"))
    if width * height > MAX_PIXELS:
        raise PayloadTooLarge(f"The canvas is larger than {MAX_PIXELS} pixels", field=f"{field}.canvas_width")
    people = [
        _person(one, f"{field}.people[{n}]", (width, height)) for n, one in enumerate(_list(pose, "people", field))
    ]
    animals = [
        _points({"": one}, "", f"{field}.animals[{n}]", (width, height))
        for n, one in enumerate(_list(pose, "animals", field))
    ]
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    draw_people(canvas, people)
    draw_animals(canvas, animals)
    return canvas


def _list(pose: Mapping[str, Any], name: str, field: str) -> Sequence[Any]:
    found = pose.get(name) or []
    if not isinstance(found, Sequence) or isinstance(found, str) or len(found) > MAX_PEOPLE:
        raise BadRequest(f"Expected a list of at most {MAX_PEOPLE} {name}", field=f"{field}.{name}")
    return found


def _person(given: Any, place: str, size: tuple[int, int]) -> Person:
    if not isinstance(given, Mapping):
        raise BadRequest("Expected an object", field=place)
    return Person(
        body=_points(given, "pose_keypoints_2d", place, size),
        face=_points(given, "face_keypoints_2d", place, size),
        left_hand=_points(given, "hand_left_keypoints_2d", place, size),
        right_hand=_points(given, "hand_right_keypoints_2d", place, size),
    )


def _side(pose: Mapping[str, Any], name: str, field: str) -> int:
    value = pose.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= MAX_SIDE:
        raise BadRequest(f"Expected a number from 1 to {MAX_SIDE}", field=f"{field}.{name}")
    return int(value)


def _points(person: Mapping[str, Any], name: str, place: str, size: tuple[int, int]) -> list[Point]:
    given = person.get(name) or []
    place = f"{place}.{name}" if name else place
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) % 3 or len(given) > 3 * MAX_POINTS:
        raise BadRequest("Expected x, y and confidence of each point", field=place)
    if any(isinstance(number, bool) or not isinstance(number, (int, float)) for number in given):
        raise BadRequest("Expected numbers", field=place)
    if not all(abs(number) <= 10 * MAX_SIDE for number in given):  # false for not-a-number too
        raise BadRequest("Expected points near the canvas", field=place)
    triples = [tuple(map(float, given[index : index + 3])) for index in range(0, len(given), 3)]
    shares = all(0 <= x <= 1 and 0 <= y <= 1 for x, y, confidence in triples if confidence > 0)
    scale_x, scale_y = size if shares else (1, 1)
    return [(x * scale_x, y * scale_y) if confidence > 0 else None for x, y, confidence in triples]
