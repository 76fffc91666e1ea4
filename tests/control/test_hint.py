from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sdwebui_api.control.hint import (
    crop_to_masked_area,
    fit_map,
    has_content,
    pixel_perfect_resolution,
    shown_map,
)
from sdwebui_api.control.thinning import thin
from sdwebui_api.control.unit import ResizeMode
from sdwebui_api.errors import PayloadTooLarge
from sdwebui_api.generation.request import InpaintMask


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("mode", list(ResizeMode))
@pytest.mark.parametrize("size", [(64, 64), (96, 40), (30, 30)])
@pytest.mark.parametrize("channels", [3, 4])
def test_maps_have_the_size_that_was_asked_for(mode: ResizeMode, size: tuple[int, int], channels: int) -> None:
    assert fit_map(noise(48, 64, channels), size, mode).shape == (size[1], size[0], channels)


def test_strips_of_a_pixel_are_fitted_as_far_as_memory_allows() -> None:
    """Each was a 500: a side of 0 pixels, and gigabytes of which next to nothing was kept."""
    strip = noise(2000, 1)
    assert fit_map(strip, (64, 64), ResizeMode.FILL).shape == (64, 64, 3)
    assert pixel_perfect_resolution(strip, (64, 64), ResizeMode.FILL) == 1
    with pytest.raises(PayloadTooLarge, match="1x2000"):
        fit_map(strip, (512, 512), ResizeMode.CROP)


def test_a_map_of_the_right_size_stays() -> None:
    image = noise(32, 32)
    for mode in ResizeMode:
        assert np.array_equal(fit_map(image, (32, 32), mode), image)


def test_crop_keeps_the_middle() -> None:
    image = np.zeros((10, 30, 3), dtype=np.uint8)
    image[:, 10:20] = noise(10, 10)
    assert np.array_equal(fit_map(image, (10, 10), ResizeMode.CROP), image[:, 10:20])


def test_fill_borders_with_the_median_colour_of_the_edge() -> None:
    image = np.full((10, 20, 3), 50, dtype=np.uint8)
    image[4:6, 8:12] = 200
    filled = fit_map(image, (20, 20), ResizeMode.FILL)
    assert (filled[:5] == 50).all() and (filled[15:] == 50).all()
    assert np.array_equal(filled[5:15], image)


def test_masks_stay_hard_and_borders_count_as_masked() -> None:
    image = noise(10, 20, 4)
    filled = fit_map(image, (40, 40), ResizeMode.FILL)
    assert set(np.unique(filled[:, :, 3])) <= {0, 255}
    assert (filled[:5, :, 3] == 255).all()


def test_segmentations_keep_their_colours() -> None:
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    image[:8, :8], image[8:, 8:] = (120, 10, 0), (10, 200, 90)
    colours = {tuple(colour) for colour in fit_map(image, (37, 37), ResizeMode.JUST_RESIZE).reshape(-1, 3)}
    assert colours == {(0, 0, 0), (120, 10, 0), (10, 200, 90)}


def test_lines_stay_one_pixel_wide() -> None:
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[16] = 255
    grown = fit_map(image, (96, 96), ResizeMode.JUST_RESIZE)
    assert set(np.unique(grown)) == {0, 255}
    assert ((grown[:, 20:70, 0] > 0).sum(axis=0) == 1).all()


def test_thinning_a_bar() -> None:
    bar = np.zeros((20, 40), dtype=np.uint8)
    bar[8:13, 5:35] = 255
    assert ((thin(bar, prune=False)[:, 10:30] > 0).sum(axis=0) == 1).all()


@pytest.mark.parametrize(("mode", "expected"), [(ResizeMode.CROP, 192), (ResizeMode.FILL, 128)])
def test_pixel_perfect(mode: ResizeMode, expected: int) -> None:
    assert pixel_perfect_resolution(noise(64, 64), (128, 192), mode) == expected


def test_blank_masks_were_not_painted() -> None:
    assert not has_content(None)
    assert not has_content(np.full((4, 4), 255, dtype=np.uint8))
    assert not has_content(np.zeros((4, 4), dtype=np.uint8))
    assert has_content(np.eye(4, dtype=np.uint8) * 255)


def test_shown_masks_are_half_transparent() -> None:
    image = np.dstack([noise(4, 4), np.full((4, 4), 255, dtype=np.uint8)])
    shown = shown_map(image)
    assert shown.mode == "RGBA" and np.array(shown)[0, 0, 3] == 128
    assert shown_map(noise(4, 4)).mode == "RGB"


def test_masked_area_is_cut_out() -> None:
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[16:32, 16:32] = 255
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 32, 32))
    spec = InpaintMask(mask, blur_x=0, blur_y=0)
    assert (crop_to_masked_area(image, spec, (32, 32), ResizeMode.JUST_RESIZE) == 255).mean() > 0.95
    blank = InpaintMask(Image.new("L", (64, 64)), blur_x=0, blur_y=0)
    assert crop_to_masked_area(image, blank, (32, 32), ResizeMode.JUST_RESIZE) is image
