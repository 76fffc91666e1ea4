"""Hands and faces: where a body's points say that they are, and their own points in their maps.

The boxes are those of OpenPose (`src/openpose/hand/handDetector.cpp`) for hands, and of the ControlNet extension
1.1.455 (`annotator/openpose/util.py`) for faces.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sdwebui_api.control.poses.maps import smoothed
from sdwebui_api.control.poses.people import FACE_POINTS, HAND_POINTS, Point, Points

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdwebui_api.control.preprocessor import Picture

    Map = NDArray[np.float32]

Box = tuple[int, int, int]
"""left, top, side"""

_NOSE, _EYES, _EARS = 0, (14, 15), (16, 17)
_LEFT_ARM, _RIGHT_ARM = (5, 6, 7), (2, 3, 4)
_SMALLEST = 20
_WRIST_TO_HAND, _HAND_TO_FOREARM, _HAND_TO_UPPER_ARM = 0.33, 1.5, 1.5 * 0.9
_EYE_REACH, _EAR_REACH = 3.0, 1.5
_HAND_THRESHOLD, _FACE_THRESHOLD = 0.05, 0.05


def left_hand_box(body: Points, width: int, height: int) -> Box | None:
    return _hand_box([body[index] for index in _LEFT_ARM], width, height)


def right_hand_box(body: Points, width: int, height: int) -> Box | None:
    return _hand_box([body[index] for index in _RIGHT_ARM], width, height)


def _hand_box(arm: Points, width: int, height: int) -> Box | None:
    """Beyond the wrist, as far as the forearm points. None when the arm is not seen or the hand too small."""
    shoulder, elbow, wrist = arm
    if shoulder is None or elbow is None or wrist is None:
        return None
    side = max(_HAND_TO_FOREARM * math.dist(elbow, wrist), _HAND_TO_UPPER_ARM * math.dist(shoulder, elbow))
    left, top = (wrist[axis] + _WRIST_TO_HAND * (wrist[axis] - elbow[axis]) - side / 2 for axis in (0, 1))
    return _within(left, top, side, side, width, height)


def face_box(body: Points, width: int, height: int) -> Box | None:
    """Around the nose, as wide as eyes and ears suggest. None when they are not seen or the face is too small."""
    nose = body[_NOSE]
    reach = 0.0
    for indices, factor in ((_EYES, _EYE_REACH), (_EARS, _EAR_REACH)):
        for point in (body[index] for index in indices):
            if nose is not None and point is not None:
                reach = max(reach, factor * max(abs(nose[0] - point[0]), abs(nose[1] - point[1])))
    if nose is None or not reach:
        return None
    return _within(nose[0] - reach, nose[1] - reach, 2 * reach, reach, width, height)


def _within(left: float, top: float, side: float, tried: float, width: int, height: int) -> Box | None:
    """Cut to the picture when `tried` leads out of it, a square still."""
    left, top = max(left, 0.0), max(top, 0.0)
    across = width - left if left + tried > width else side
    down = height - top if top + tried > height else side
    side = min(across, down)
    return (int(left), int(top), int(side)) if side >= _SMALLEST else None


def hand_points(average: Map, width: int, height: int) -> tuple[Point, ...]:
    """`[S, S, 22]` of a crop of this size → its points, in the crop's pixels: the highest place of the strongest
    blot of each map."""
    found: list[Point] = []
    for part in range(HAND_POINTS):
        likely = average[:, :, part]
        blots = (smoothed(likely) > _HAND_THRESHOLD).astype(np.uint8)
        count, labels = cv2.connectedComponents(blots, connectivity=8)
        if count < 2:
            found.append(None)
            continue
        strengths = [float(likely[labels == label].sum()) for label in range(1, count)]
        strongest = np.where(labels == 1 + int(np.argmax(strengths)), likely, 0.0)
        row, column = np.unravel_index(int(strongest.argmax()), strongest.shape)
        place = column * width // likely.shape[1], row * height // likely.shape[0]
        found.append((float(place[0]), float(place[1])))
    return tuple(found)


def face_points(maps: Map) -> tuple[Point, ...]:
    """`[H, W, 71]` of a crop → the highest place of each map but the background's, in the crop's pixels."""
    found: list[Point] = []
    for part in range(FACE_POINTS):
        row, column = np.unravel_index(int(maps[:, :, part].argmax()), maps.shape[:2])
        found.append((float(column), float(row)) if maps[row, column, part] > _FACE_THRESHOLD else None)
    return tuple(found)


def moved(points: Points, box: Box) -> tuple[Point, ...]:
    """From a crop's pixels to the picture's."""
    return tuple(None if point is None else (point[0] + box[0], point[1] + box[1]) for point in points)


def crop(image: Picture, box: Box) -> Picture:
    left, top, side = box
    return image[top : top + side, left : left + side]
