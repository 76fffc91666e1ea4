"""People found in maps that show known ones."""

from __future__ import annotations

import numpy as np
import pytest

from sdwebui_api.control.poses.body import MOST_PEAKS, find_peaks, find_people
from sdwebui_api.control.poses.maps import BodyMaps, body_maps
from sdwebui_api.control.poses.people import Points
from tests.control.poses.figures import blot, body_network, person

SIZE = 384, 320


def search(*people: Points, size: tuple[int, int] = SIZE) -> list[Points]:
    picture = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    return find_people(body_maps(picture, body_network(people, *size)))


def distance(found: Points, wanted: Points) -> float:
    """The farthest that a point lies from where it should; infinite when one is missing or too many."""
    if [one is None for one in found] != [one is None for one in wanted]:
        return float("inf")
    return max(np.hypot(a[0] - b[0], a[1] - b[1]) for a, b in zip(found, wanted, strict=True) if a and b)


@pytest.mark.parametrize("size", [(384, 320), (256, 512), (640, 192)])
def test_one_person(size: tuple[int, int]) -> None:
    wanted = person(20, 10, size[1] / 180)
    (found,) = search(wanted, size=size)
    assert distance(found, wanted) <= 0.02 * size[1]


def test_people_side_by_side_and_their_own_limbs() -> None:
    wanted = [person(0, 20, 1.6), person(110, 40, 1.5), person(240, 10, 1.4)]
    found = sorted(search(*wanted), key=lambda one: one[1][0])
    assert len(found) == 3
    assert all(distance(one, other) <= 7 for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("without", [(16, 17), (9, 10, 12, 13), (2, 3, 4), (0, 14, 15, 16, 17)])
def test_what_is_not_seen_stays_absent(without: tuple[int, ...]) -> None:
    wanted = person(40, 20, 1.7, without)
    (found,) = search(wanted)
    assert distance(found, wanted) <= 7


def test_without_a_neck_ears_join_shoulders() -> None:
    found = search(person(40, 20, 1.7, without=(1, *range(8, 14))))
    assert len(found) == 1
    assert found[0][1] is None and all(found[0][part] for part in (0, 2, 4, 5, 7, 16, 17))


def test_few_points_are_nobody() -> None:
    assert search(person(40, 20, 1.7, without=[*range(2), *range(4, 18)])) == []
    assert search() == []


def test_points_without_limbs_are_nobody() -> None:
    maps = body_network([person(40, 20, 1.7)], *SIZE)

    def without_flow(x: np.ndarray) -> np.ndarray:
        found = maps(x)
        found[:, :, :38] = 0
        return found

    assert find_people(body_maps(np.zeros((SIZE[1], SIZE[0], 3), dtype=np.uint8), without_flow)) == []


def test_limbs_that_lead_elsewhere_join_nothing() -> None:
    """Two people whose flows are exchanged: none of the ways between their points agrees."""
    maps = body_network([person(40, 20, 1.7)], *SIZE)

    def backwards(x: np.ndarray) -> np.ndarray:
        found = maps(x)
        found[:, :, :38] *= -1
        return found

    assert find_people(body_maps(np.zeros((SIZE[1], SIZE[0], 3), dtype=np.uint8), backwards)) == []


def test_peaks_are_the_tops_of_hills() -> None:
    likely = np.maximum(blot((30, 20), 80, 60, 4.0), 0.5 * blot((60, 40), 80, 60, 4.0))
    found = find_peaks(likely)
    assert found.places.tolist() == [[30, 20], [60, 40]]
    assert found.scores == pytest.approx([1.0, 0.5], abs=0.01)
    assert not len(find_peaks(0.05 * likely).scores)


def test_noise_does_not_make_endless_peaks() -> None:
    noise = np.random.default_rng(0).random((600, 600)).astype(np.float32)
    found = find_peaks(np.kron(noise[:80, :80] > 0.5, np.ones((9, 9))).astype(np.float32))
    assert len(found.scores) == MOST_PEAKS


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (64, 64)])
def test_pictures_of_any_shape(size: tuple[int, int]) -> None:
    seen: list[tuple[int, ...]] = []

    def network(x: np.ndarray) -> np.ndarray:
        seen.append(x.shape)
        return np.zeros((x.shape[0] // 8, x.shape[1] // 8, 57), dtype=np.float32)

    maps = body_maps(np.zeros((size[1], size[0], 3), dtype=np.uint8), network)
    assert isinstance(maps, BodyMaps) and find_people(maps) == []
    assert maps.points(3).shape == size[::-1] and maps.flow(2).shape == (*size[::-1], 2)
    assert seen[0][0] % 8 == seen[0][1] % 8 == 0 and seen[0][0] * seen[0][1] <= 2**22 + 2**16


def test_the_network_sees_the_colours_in_its_own_order() -> None:
    picture = np.zeros((184, 184, 3), dtype=np.uint8)
    picture[:] = 255, 128, 0
    seen: list[np.ndarray] = []
    body_maps(picture, lambda x: seen.append(x) or np.zeros((23, 23, 57), dtype=np.float32))
    assert seen[0][0, 0].tolist() == pytest.approx([-0.5, 0.0, 255 / 256 - 0.5])
