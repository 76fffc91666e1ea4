"""Hands and faces: where they are looked for, and their points."""

from __future__ import annotations

import numpy as np
import pytest

from sdwebui_api.control.poses import parts
from sdwebui_api.control.poses.maps import face_maps, hand_maps
from tests.control.poses.figures import blot, person


def test_a_hand_lies_beyond_the_wrist() -> None:
    body = person(100, 100, 2.0)
    for find, wrist, elbow in ((parts.left_hand_box, 7, 6), (parts.right_hand_box, 4, 3)):
        left, top, side = find(body, 1000, 1000)
        middle = np.array([left + side / 2, top + side / 2])
        expected = np.array(body[wrist]) + 0.33 * (np.array(body[wrist]) - np.array(body[elbow]))
        assert np.abs(middle - expected).max() <= 1.5
        assert side == int(1.5 * np.linalg.norm(np.subtract(body[wrist], body[elbow])))


@pytest.mark.parametrize("missing", [5, 6, 7])
def test_no_hand_without_an_arm(missing: int) -> None:
    body = person(100, 100, 2.0, without=(missing,))
    assert parts.left_hand_box(body, 1000, 1000) is None and parts.right_hand_box(body, 1000, 1000)


def test_boxes_stay_within_the_picture() -> None:
    body = person(0, 100, 2.0)
    for find in (parts.left_hand_box, parts.right_hand_box, parts.face_box):
        for width, height in ((1000, 1000), (200, 300), (130, 290), (300, 150)):
            box = find(body, width, height)
            if box is not None:
                left, top, side = box
                assert 0 <= left < width and 0 <= top < height and left + side <= width + 1 and side >= 20


def test_small_hands_and_faces_are_left_alone() -> None:
    body = person(0, 0, 0.3)
    assert parts.left_hand_box(body, 500, 500) is None and parts.face_box(body, 500, 500) is None


def test_a_face_lies_around_the_nose() -> None:
    body = person(100, 100, 3.0)
    left, top, side = parts.face_box(body, 2000, 2000)
    reach = max(3.0 * 15, 1.5 * 27)  # eyes lie 15 pixels from the nose, ears 27
    assert (left, top, side) == (int(250 - reach), int(160 - reach), int(2 * reach))
    assert parts.face_box(person(100, 100, 3.0, without=(0,)), 2000, 2000) is None
    assert parts.face_box(person(100, 100, 3.0, without=(14, 15, 16, 17)), 2000, 2000) is None


def test_a_hands_points_are_found_at_all_sizes() -> None:
    crop = np.zeros((90, 90, 3), dtype=np.uint8)
    wanted = [(10 + 3.5 * number, 80 - 3 * number) for number in range(21)]
    sides: list[int] = []

    def network(x: np.ndarray) -> np.ndarray:
        sides.append(x.shape[0])
        cells = x.shape[0] // 8
        found = np.zeros((cells, cells, 22), dtype=np.float32)
        for part, (left, top) in enumerate(wanted):
            if part != 5:
                found[:, :, part] = blot((left * cells / 90 - 0.5, top * cells / 90 - 0.5), cells, cells, cells / 30)
        return found

    found = parts.hand_points(hand_maps(crop, network), 90, 90)
    assert sides == [184, 368, 552, 736]
    assert found[5] is None
    for part, point in enumerate(found):
        assert part == 5 or (point is not None and np.abs(np.subtract(point, wanted[part])).max() <= 2)


def test_the_strongest_blot_wins() -> None:
    maps = np.zeros((128, 128, 22), dtype=np.float32)
    maps[:, :, 0] = np.maximum(0.6 * blot((100, 20), 128, 128, 8.0), 0.9 * blot((20, 100), 128, 128, 2.0))
    assert parts.hand_points(maps, 128, 128)[0] == (100.0, 20.0)


def test_a_faces_points() -> None:
    crop = np.zeros((120, 60, 3), dtype=np.uint8)

    def network(x: np.ndarray) -> np.ndarray:
        assert x.shape == (384, 384, 3)
        found = np.zeros((48, 48, 71), dtype=np.float32)
        for part in range(0, 71, 2):
            found[part // 2 + 1, 47 - part // 2, part] = 1.0
        return found

    found = parts.face_points(face_maps(crop, network))
    assert len(found) == 70 and found[1] is None
    assert found[0] == pytest.approx((59, 119 / 47), abs=1)
    assert found[60] == pytest.approx((17 * 59 / 47, 31 * 119 / 47), abs=1.5)


def test_points_move_back_to_the_picture() -> None:
    assert parts.moved([(1.0, 2.0), None], (10, 20, 30)) == ((11.0, 22.0), None)
