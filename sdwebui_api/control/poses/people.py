"""People as points, and as OpenPose's JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

Point = tuple[float, float] | None
"""x and y in pixels; None: not seen."""
Points = Sequence[Point]

BODY_POINTS, HAND_POINTS, FACE_POINTS, ANIMAL_POINTS = 18, 21, 70, 17


@dataclass(frozen=True)
class Person:
    """body: COCO's order with the neck second. Hands and face are empty when they were not looked for or found."""

    body: Points = ()
    face: Points = ()
    left_hand: Points = ()
    right_hand: Points = ()

    def only(self, *, body: bool, hands: bool, face: bool) -> Person:
        """What is to be drawn."""
        kept = self if body else replace(self, body=())
        kept = kept if hands else replace(kept, left_hand=(), right_hand=())
        return kept if face else replace(kept, face=())


def pose_json(people: Iterable[Person], animals: Iterable[Points], width: int, height: int) -> dict[str, Any]:
    """As OpenPose writes it (its `doc/02_output.md`), in pixels, with the canvas's size; absent points are zeros."""
    return {
        "people": [
            {
                "pose_keypoints_2d": _flat(person.body),
                "face_keypoints_2d": _flat(person.face),
                "hand_left_keypoints_2d": _flat(person.left_hand),
                "hand_right_keypoints_2d": _flat(person.right_hand),
            }
            for person in people
        ],
        "animals": [_flat(animal) for animal in animals],
        "canvas_height": height,
        "canvas_width": width,
    }


def _flat(points: Points) -> list[float] | None:
    if not any(points):
        return None
    return [float(number) for point in points for number in ((0.0, 0.0, 0.0) if point is None else (*point, 1.0))]
