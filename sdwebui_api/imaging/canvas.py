"""How much larger outpainting makes a picture, and on which sides."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from sdwebui_api.errors import BadRequest, PayloadTooLarge

DIRECTIONS = ("left", "right", "up", "down")
STEP = 64
"""A canvas has sides that are multiples of this."""
MAX_SIDE = 8192


@dataclass(frozen=True)
class Margins:
    """Pixels added on each side."""

    left: int
    right: int
    up: int
    down: int

    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """What a picture of `size` becomes."""
        return size[0] + self.left + self.right, size[1] + self.up + self.down

    @property
    def sides(self) -> int:
        """How many sides grow."""
        return sum(side > 0 for side in (self.left, self.right, self.up, self.down))


def margins_for(size: tuple[int, int], pixels: object, directions: object, field: str) -> Margins:
    """About `pixels` in each of `directions`, rounded up so that the canvas has sides of multiples of 64.

    Raises BadRequest naming `field` when the arguments are none, or nothing would grow.
    """
    if not isinstance(pixels, int) or isinstance(pixels, bool) or not 1 <= pixels <= MAX_SIDE:
        raise BadRequest(f"the pixels to expand go from 1 to {MAX_SIDE}", field=field)
    if not isinstance(directions, (list, tuple)) or not set(map(str, directions)) <= set(DIRECTIONS):
        raise BadRequest("the directions are a list of left, right, up, down", field=field, choices=DIRECTIONS)
    left, right = _pair(size[0], pixels, directions, "left", "right")
    up, down = _pair(size[1], pixels, directions, "up", "down")
    margins = Margins(left, right, up, down)
    if not margins.sides:
        raise BadRequest("there is no direction to expand in", field=field, choices=DIRECTIONS)
    if max(margins.canvas(size)) > MAX_SIDE:
        raise PayloadTooLarge(f"the picture would have more than {MAX_SIDE} pixels on a side", field=field)
    return margins


def _pair(length: int, pixels: int, directions: Collection[object], before: str, after: str) -> tuple[int, int]:
    first = pixels if before in directions else 0
    second = pixels if after in directions else 0
    target = math.ceil((length + first + second) / STEP) * STEP
    if first:
        first = first * (target - length) // (first + second)
    if second:
        second = target - length - first
    return first, second
