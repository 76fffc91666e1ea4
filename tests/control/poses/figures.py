"""People drawn as a perfect network's maps would show them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sdwebui_api.control.poses.body import FLOWS, LIMBS
from sdwebui_api.control.poses.people import Points

STANDING = (
    (50, 20), (50, 40), (35, 40), (28, 60), (22, 80), (65, 40), (72, 60), (78, 80), (42, 85), (41, 115), (40, 145),
    (58, 85), (59, 115), (60, 145), (46, 15), (54, 15), (41, 18), (59, 18),
)  # fmt: skip
"""18 points of somebody 160 pixels high."""


def person(left: float = 0, top: float = 0, scale: float = 1.0, without: Sequence[int] = ()) -> Points:
    return tuple(
        None if number in without else (left + scale * x, top + scale * y) for number, (x, y) in enumerate(STANDING)
    )


def body_network(people: Sequence[Points], width: int, height: int, seen: int = 184) -> Callable:
    """A body's network that sees `people` in a picture of this size, brought to `seen` pixels of height."""
    scale = seen / height / 8

    def maps(x: np.ndarray) -> np.ndarray:
        rows, columns = x.shape[0] // 8, x.shape[1] // 8
        found = np.zeros((rows, columns, 57), dtype=np.float32)
        for points in people:
            small = [None if point is None else (point[0] * scale - 0.5, point[1] * scale - 0.5) for point in points]
            for part, point in enumerate(small):
                if point is not None:
                    found[:, :, 38 + part] = np.maximum(found[:, :, 38 + part], blot(point, columns, rows))
            for (first, second), flow in zip(LIMBS, FLOWS, strict=True):
                if small[first] is not None and small[second] is not None:
                    draw_flow(found[:, :, flow : flow + 2], np.array(small[first]), np.array(small[second]))
        return found

    return maps


def blot(point: tuple[float, float], columns: int, rows: int, reach: float = 1.0) -> np.ndarray:
    x, y = np.arange(columns)[None], np.arange(rows)[:, None]
    return np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * reach**2)).astype(np.float32)


def draw_flow(maps: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    """The limb's direction within a pixel of its line."""
    way = end - start
    length = max(float(np.linalg.norm(way)), 1e-6)
    unit = way / length
    y, x = np.mgrid[: maps.shape[0], : maps.shape[1]]
    along = (x - start[0]) * unit[0] + (y - start[1]) * unit[1]
    across = np.abs((x - start[0]) * unit[1] - (y - start[1]) * unit[0])
    maps[(along >= -1) & (along <= length + 1) & (across <= 1)] = unit
