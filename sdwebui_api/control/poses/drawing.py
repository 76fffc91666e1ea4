"""Skeletons in the colours that control networks were trained on.

Limbs and colours are those of CMU's OpenPose (`src/openpose/pose/poseParameters`), animals' those of AP-10K as the
ControlNet extension 1.1.455 paints them.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from sdwebui_api.control.poses.people import Person, Point, Points
    from sdwebui_api.control.preprocessor import Picture

Colour = tuple[int, int, int]

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
_ANIMAL: tuple[tuple[int, int, Colour], ...] = (
    (0, 1, (255, 255, 255)), (1, 2, (100, 255, 100)), (0, 2, (150, 255, 255)), (2, 3, (100, 50, 255)),
    (3, 8, (50, 150, 200)), (8, 9, (0, 255, 255)), (9, 10, (0, 150, 0)), (3, 5, (0, 0, 255)), (5, 6, (0, 0, 150)),
    (6, 7, (255, 50, 255)), (3, 4, (255, 0, 255)), (4, 14, (255, 0, 0)), (14, 15, (150, 0, 0)),
    (15, 16, (255, 255, 100)), (4, 11, (0, 150, 0)), (11, 12, (255, 255, 0)), (12, 13, (150, 150, 150)),
)  # fmt: skip
"""Pairs of AP-10K's points: eyes, nose, neck, tail, then shoulder, elbow, paw and hip, knee, paw of each side."""
_FACE_STARS: tuple[Colour, ...] = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
"""Of the eyes, the nose and the corners of the mouth."""
_STICK, _JOINT, _FACE_POINT, _FINGER, _ANIMAL_LIMB, _STAR = 4, 4, 3, 2, 5, 10
_LIMB_SHADE = 0.6
_HAND_POINT, _FACE_COLOUR = (0, 0, 255), (255, 255, 255)


def draw_people(canvas: Picture, people: Iterable[Person]) -> None:
    """Onto uint8 `[H, W, 3]`."""
    for person in people:
        _draw_body(canvas, person.body)
        _draw_hand(canvas, person.left_hand)
        _draw_hand(canvas, person.right_hand)
        for point in person.face:
            _draw_point(canvas, point, _FACE_POINT, _FACE_COLOUR)


def draw_animals(canvas: Picture, animals: Iterable[Points]) -> None:
    for animal in animals:
        for first, second, colour in _ANIMAL:
            start, end = _at(animal, first), _at(animal, second)
            if start is not None and end is not None:
                cv2.line(canvas, _whole(start), _whole(end), colour, thickness=_ANIMAL_LIMB)


def draw_face_landmarks(canvas: Picture, points: Points) -> None:
    """Five landmarks joined at the nose, as InstantID was trained on (Wang et al. 2024, arXiv 2401.07519)."""
    for number in (0, 1, 3, 4):
        start, end = _at(points, number), _at(points, 2)
        if start is not None and end is not None:
            _draw_limb(canvas, start, end, _FACE_STARS[number])
    canvas[:] = (canvas * _LIMB_SHADE).astype(np.uint8)
    for point, colour in zip(points, _FACE_STARS, strict=False):
        _draw_point(canvas, point, _STAR, colour)


def _draw_body(canvas: Picture, points: Points) -> None:
    for colour, (first, second) in zip(_RAINBOW, _LIMBS, strict=False):
        start, end = _at(points, first), _at(points, second)
        if start is not None and end is not None:
            _draw_limb(canvas, start, end, tuple(int(value * _LIMB_SHADE) for value in colour))
    for colour, point in zip(_RAINBOW, points, strict=False):
        _draw_point(canvas, point, _JOINT, colour)


def _draw_limb(canvas: Picture, start: tuple[float, float], end: tuple[float, float], colour: Sequence[int]) -> None:
    """A slender ellipse from joint to joint."""
    across, down = start[0] - end[0], start[1] - end[1]
    middle = int((start[0] + end[0]) / 2), int((start[1] + end[1]) / 2)
    axes = int(math.hypot(across, down) / 2), _STICK
    outline = cv2.ellipse2Poly(middle, axes, int(math.degrees(math.atan2(down, across))), 0, 360, 1)
    cv2.fillConvexPoly(canvas, outline, tuple(colour))


def _draw_hand(canvas: Picture, points: Points) -> None:
    for index, (first, second) in enumerate(_FINGERS):
        start, end = _at(points, first), _at(points, second)
        if start is not None and end is not None:
            red, green, blue = colorsys.hsv_to_rgb(index / len(_FINGERS), 1.0, 1.0)
            colour = int(red * 255), int(green * 255), int(blue * 255)
            cv2.line(canvas, _whole(start), _whole(end), colour, thickness=_FINGER)
    for point in points:
        _draw_point(canvas, point, _JOINT, _HAND_POINT)


def _draw_point(canvas: Picture, point: Point, radius: int, colour: Colour) -> None:
    if point is not None:
        cv2.circle(canvas, _whole(point), radius, colour, thickness=-1)


def _at(points: Points, index: int) -> Point:
    return points[index] if index < len(points) else None


def _whole(point: tuple[float, float]) -> tuple[int, int]:
    return int(point[0]), int(point[1])
