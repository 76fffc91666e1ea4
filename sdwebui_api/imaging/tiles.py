"""Large pictures worked on tile by tile: cut into overlapping tiles and put together again without seams.

The geometry is A1111's (`modules/images.py`, split_grid and combine_grid).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sdwebui_api.errors import BadRequest

MAX_TILES = 10_000
"""Of one picture; small tiles that overlap by all but a pixel would be as many as the picture has pixels."""

Corner = tuple[int, int]
"""x, y of a tile's upper left corner; names the tile."""


@dataclass(frozen=True)
class Tiling:
    """How a picture of `width` x `height` is cut: every pair of `xs` and `ys` is the corner of a tile.

    The first tile starts at 0, the last one ends with the picture, and neighbours share at least `overlap` pixels.
    A picture smaller than a tile gives one tile with black edges.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    overlap: int
    xs: tuple[int, ...]
    ys: tuple[int, ...]

    @property
    def corners(self) -> list[Corner]:
        """Of all tiles, row by row."""
        return [(x, y) for y in self.ys for x in self.xs]

    def tile(self, image: Image.Image, corner: Corner) -> Image.Image:
        x, y = corner
        return image.crop((x, y, x + self.tile_width, y + self.tile_height))

    def tiles(self, image: Image.Image) -> dict[Corner, Image.Image]:
        """All tiles of `image`, row by row."""
        return {corner: self.tile(image, corner) for corner in self.corners}

    def combine(self, tiles: Mapping[Corner, Image.Image]) -> Image.Image:
        """The RGB picture of `tiles`; within the overlap each tile fades in over the one before it."""
        across = _ramp(self.overlap)[None, :].repeat(self.tile_height, axis=0)
        down = _ramp(self.overlap)[:, None].repeat(self.width, axis=1)
        combined = Image.new("RGB", (self.width, self.height))
        for y in self.ys:
            row = Image.new("RGB", (self.width, self.tile_height))
            for x in self.xs:
                self._lay(row, tiles[x, y], (x, 0), across if x else None, (self.overlap, 0))
            self._lay(combined, row, (0, y), down if y else None, (0, self.overlap))
        return combined

    def _lay(
        self, canvas: Image.Image, piece: Image.Image, at: Corner, fade: np.ndarray | None, solid_from: Corner
    ) -> None:
        """`piece` onto `canvas`: faded up to `solid_from`, solid behind it; all solid without `fade`."""
        if fade is None:
            canvas.paste(piece, at)
            return
        if self.overlap:
            mask = Image.fromarray(fade)
            canvas.paste(piece.crop((0, 0, *mask.size)), at, mask=mask)
        solid = piece.crop((*solid_from, *piece.size))
        canvas.paste(solid, (at[0] + solid_from[0], at[1] + solid_from[1]))


def cut(width: int, height: int, tile_width: int, tile_height: int, overlap: int) -> Tiling:
    """The tiling of a picture of `width` x `height`. Raises BadRequest when tiles would not get any further, and when
    they would be too many."""
    if overlap >= min(tile_width, tile_height):
        raise BadRequest(f"tiles of {tile_width}x{tile_height} cannot overlap by {overlap} pixels", field="script_args")
    xs = _starts(width, tile_width, overlap)
    ys = _starts(height, tile_height, overlap)
    if len(xs) * len(ys) > MAX_TILES:
        raise BadRequest(f"{len(xs) * len(ys)} tiles, at most {MAX_TILES}: larger ones are needed", field="script_args")
    return Tiling(width, height, tile_width, tile_height, overlap, xs, ys)


def _starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    count = max(1, math.ceil((length - overlap) / (tile - overlap)))
    step = (length - tile) / (count - 1) if count > 1 else 0
    return tuple(max(0, min(int(index * step), length - tile)) for index in range(count))


def _ramp(length: int) -> np.ndarray:
    """uint8 [length] from 0 up to nearly 255."""
    return (np.arange(length, dtype=np.float32) * 255 / max(length, 1)).astype(np.uint8)
