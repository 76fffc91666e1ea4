from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sdwebui_api.errors import BadRequest, PayloadTooLarge
from sdwebui_api.imaging.canvas import Margins, margins_for
from sdwebui_api.imaging.tiles import cut


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_tiles_lie_evenly_and_end_with_the_picture() -> None:
    tiling = cut(256, 200, 128, 128, 32)
    assert tiling.xs == (0, 64, 128)
    assert tiling.ys == (0, 72)
    assert tiling.corners[:4] == [(0, 0), (64, 0), (128, 0), (0, 72)]


@pytest.mark.parametrize(("size", "overlap"), [((256, 200), 32), ((128, 128), 16), ((300, 129), 0), ((333, 257), 64)])
def test_untouched_tiles_give_the_picture_back(size: tuple[int, int], overlap: int) -> None:
    image = noise(*size)
    tiling = cut(*size, 128, 128, overlap)
    assert tiling.combine(tiling.tiles(image)).tobytes() == image.tobytes()


def test_a_picture_smaller_than_a_tile() -> None:
    image = noise(100, 90)
    tiling = cut(100, 90, 128, 128, 32)
    (tile,) = tiling.tiles(image).values()
    assert tile.size == (128, 128)
    assert tiling.combine({(0, 0): tile}).tobytes() == image.tobytes()


def test_tiles_fade_into_each_other() -> None:
    tiling = cut(24, 16, 16, 16, 8)
    black, white = Image.new("RGB", (16, 16)), Image.new("RGB", (16, 16), "white")
    row = np.asarray(tiling.combine({(0, 0): black, (8, 0): white}))[0, :, 0].astype(int)
    assert (row[:9] == 0).all()
    assert (row[16:] == 255).all()
    assert (np.diff(row[8:17]) > 0).all()


def test_tiles_that_never_get_further() -> None:
    with pytest.raises(BadRequest, match="overlap"):
        cut(256, 256, 64, 64, 64)
    with pytest.raises(BadRequest, match="16265089 tiles"):
        cut(4096, 4096, 64, 64, 63)


@pytest.mark.parametrize(
    ("size", "pixels", "directions", "margins"),
    [
        ((128, 128), 32, ["left", "right"], Margins(32, 32, 0, 0)),
        ((128, 128), 64, ["left", "down"], Margins(64, 0, 0, 64)),
        ((100, 100), 8, ["up"], Margins(0, 28, 28, 0)),
        ((128, 100), 40, ["left", "right", "up", "down"], Margins(64, 64, 46, 46)),
    ],
)
def test_canvases_are_multiples_of_64(
    size: tuple[int, int], pixels: int, directions: list[str], margins: Margins
) -> None:
    found = margins_for(size, pixels, directions, "script_args")
    wanted = [side for side in margins.canvas(size)]
    assert [found.left, found.up, found.down] == [margins.left, margins.up, margins.down]
    if "left" in directions or "right" in directions:
        assert found.canvas(size)[0] == wanted[0]
        assert wanted[0] % 64 == 0


@pytest.mark.parametrize(
    ("pixels", "directions"), [(0, ["left"]), ("8", ["left"]), (8, ["north"]), (8, []), (8, "left"), (True, ["up"])]
)
def test_margins_that_make_no_sense(pixels: object, directions: object) -> None:
    with pytest.raises(BadRequest):
        margins_for((64, 64), pixels, directions, "script_args")


def test_margins_that_are_too_large() -> None:
    with pytest.raises(PayloadTooLarge):
        margins_for((64, 64), 8192, ["left"], "script_args")
