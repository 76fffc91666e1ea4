"""From a body network's maps to people: peaks of the points' maps, joined along the limbs' maps.

After "OpenPose: Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields" (Cao et al. 2019, arXiv
1812.08008, section 3.4), with the thresholds of the authors' PyTorch and MATLAB versions for 18 points.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sdwebui_api.control.poses.maps import smoothed
from sdwebui_api.control.poses.people import BODY_POINTS, Point

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Map = NDArray[np.float32]
    Numbers = NDArray[np.float64]

LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17), (2, 16), (5, 17),
)  # fmt: skip
"""Pairs of points that the network joins, in the order in which people are put together."""
FLOWS = (12, 20, 14, 16, 22, 24, 0, 2, 4, 6, 8, 10, 28, 30, 34, 32, 36, 18, 26)
"""Which two maps, from this one on, show where each limb leads."""
_FOUNDING = 17
"""The limbs that may start a new person; the others, from shoulder to ear, only join what is there."""
MOST_PEAKS = 127
"""Of one kind; the strongest count."""

_PEAK, _FLOW, _SAMPLES, _AGREEING = 0.1, 0.05, 10, 0.8
_FEWEST_POINTS, _LEAST_SCORE = 4, 0.4


class BodyMapsOf(Protocol):
    """The maps of a picture at its own size, made when they are asked for."""

    @property
    def height(self) -> int: ...

    def points(self, part: int) -> Map:
        """`[H, W]`: how likely each pixel is the body's point `part`."""
        ...

    def flow(self, first: int) -> Map:
        """`[H, W, 2]`: maps `first` and `first + 1`, x and y of where a limb leads."""
        ...


@dataclass(frozen=True)
class Peaks:
    """places: `[n, 2]` x and y in whole pixels; scores: `[n]`."""

    places: NDArray[np.int64]
    scores: Numbers


@dataclass
class _Figure:
    """points: part → index of its peak."""

    points: dict[int, int] = field(default_factory=dict)
    count: int = 0
    score: float = 0.0

    @property
    def is_likely(self) -> bool:
        return self.count >= _FEWEST_POINTS and self.score >= _LEAST_SCORE * self.count


def find_people(maps: BodyMapsOf) -> list[tuple[Point, ...]]:
    """18 points each."""
    peaks = [find_peaks(maps.points(part)) for part in range(BODY_POINTS)]
    figures: list[_Figure] = []
    for number, ((first, second), flow) in enumerate(zip(LIMBS, FLOWS, strict=True)):
        if len(peaks[first].scores) and len(peaks[second].scores):
            for link in _links(maps.flow(flow), peaks[first], peaks[second], maps.height):
                _add(figures, (first, second), link, peaks, may_found=number < _FOUNDING)
    return [_places(one, peaks) for one in figures if one.is_likely]


def find_peaks(likely: Map) -> Peaks:
    """Where the smoothed map is highest among its four neighbours; scores are the map's own."""
    smooth = smoothed(likely)
    around = np.pad(smooth, 1)
    highest = smooth > _PEAK
    for neighbour in (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]):
        highest &= smooth >= neighbour
    rows, columns = np.nonzero(highest)
    scores = np.asarray(likely[rows, columns], dtype=np.float64)
    if len(scores) > MOST_PEAKS:
        kept = np.sort(np.argsort(-scores, kind="stable")[:MOST_PEAKS])
        rows, columns, scores = rows[kept], columns[kept], scores[kept]
    return Peaks(np.stack([columns, rows], axis=1), scores)


def _links(flow: Map, starts: Peaks, ends: Peaks, height: int) -> Iterator[tuple[int, int, float]]:
    """The surest pairs of peaks, none of them twice: (start, end, score)."""
    scores = _agreement(flow, starts.places, ends.places, height)
    order = np.argsort(-scores, axis=None, kind="stable")
    used_starts: set[int] = set()
    used_ends: set[int] = set()
    for index in order[: int((scores > 0).sum())]:
        start, end = divmod(int(index), len(ends.scores))
        if start not in used_starts and end not in used_ends:
            used_starts.add(start)
            used_ends.add(end)
            yield start, end, float(scores[start, end])


def _agreement(flow: Map, starts: NDArray[np.int64], ends: NDArray[np.int64], height: int) -> Numbers:
    """`[starts, ends]`: how well the flow leads from one to the other, longer ways weighing less; 0: not at all."""
    ways = (ends[None] - starts[:, None]).astype(np.float64)
    lengths = np.maximum(np.linalg.norm(ways, axis=2), 0.001)
    shares = np.linspace(0.0, 1.0, _SAMPLES)[:, None, None, None]
    columns, rows = np.moveaxis(np.rint(starts[None, :, None] + ways[None] * shares).astype(np.int64), 3, 0)
    along = (flow[rows, columns] * (ways / lengths[:, :, None])[None]).sum(axis=3)
    scores = along.mean(axis=0) + np.minimum(0.5 * height / lengths - 1.0, 0.0)
    convincing = (along > _FLOW).sum(axis=0) > _AGREEING * _SAMPLES
    return np.where(convincing, np.maximum(scores, 0.0), 0.0)


def _add(
    figures: list[_Figure], limb: tuple[int, int], link: tuple[int, int, float], peaks: list[Peaks], *, may_found: bool
) -> None:
    """Joins a limb to the person who has one of its ends, or to two who become one, or starts a person with it."""
    (first, second), (start, end, score) = limb, link
    owners = [one for one in figures if one.points.get(first) == start or one.points.get(second) == end][:2]
    if not owners:
        if may_found:
            total = float(peaks[first].scores[start] + peaks[second].scores[end]) + score
            figures.append(_Figure({first: start, second: end}, 2, total))
        return
    owner = owners[0]
    if len(owners) == 2 and not owner.points.keys() & owners[1].points.keys():
        owner.points |= owners[1].points
        owner.count += owners[1].count
        owner.score += owners[1].score + score
        figures[:] = [one for one in figures if one is not owners[1]]
    elif len(owners) == 2 or owner.points.get(second) != end:
        owner.points[second] = end
        owner.count += 1
        owner.score += float(peaks[second].scores[end]) + score


def _places(figure: _Figure, peaks: list[Peaks]) -> tuple[Point, ...]:
    found: list[Point] = [None] * BODY_POINTS
    for part, index in figure.points.items():
        x, y = peaks[part].places[index]
        found[part] = float(x), float(y)
    return tuple(found)
