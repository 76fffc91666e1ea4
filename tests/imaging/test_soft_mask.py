from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sdwebui_api.imaging.matched_noise import matched_noise
from sdwebui_api.imaging.soft_mask import (
    MAXIMUM,
    MIDDLE,
    Percentiles,
    change_mask,
    gaussian_kernel,
    overlay_outside,
    picture_mask,
    smootherstep,
    weighted_percentile_filter,
)


def by_hand(image: np.ndarray, kernel: np.ndarray, window: Percentiles) -> np.ndarray:
    """The filter as its definition reads, one pixel and one neighbour at a time."""
    radius = len(kernel) // 2
    out = np.zeros(image.shape)
    for (row, column), _ in np.ndenumerate(image):
        stack = sorted(
            (image[y, x], kernel[y - row + radius, x - column + radius])
            for y in range(max(0, row - radius), min(image.shape[0], row + radius + 1))
            for x in range(max(0, column - radius), min(image.shape[1], column + radius + 1))
        )
        total = sum(weight for _, weight in stack)
        start, stop = total * window.low, total * window.high
        if stop - start < window.width:
            start = max(0.0, min((start + stop - window.width) / 2, total - window.width))
            stop = start + window.width
        bottom = weighted = share = 0.0
        for value, weight in stack:
            part = max(0.0, min(stop, bottom + weight) - max(start, bottom))
            weighted, share, bottom = weighted + value * part, share + part, bottom + weight
        out[row, column] = weighted / share
    return out


@pytest.mark.parametrize("window", [MAXIMUM, MIDDLE, Percentiles(0.0, 1.0), Percentiles(0.5, 0.5, 0.3)])
def test_the_filter_is_what_it_says(window: Percentiles) -> None:
    image = np.random.default_rng(0).random((7, 5)).astype(np.float32)
    kernel = gaussian_kernel(1.5, 2)
    assert np.allclose(weighted_percentile_filter(image, kernel, window), by_hand(image, kernel, window))


def test_the_kernel_tapers_to_nothing() -> None:
    kernel = gaussian_kernel(1.5, 2)
    assert kernel.shape == (5, 5)
    assert kernel[2, 2] == 1.0
    assert 0 < kernel[0, 2] < kernel[1, 2] < 1
    assert np.allclose(kernel, kernel.T)


def test_smootherstep() -> None:
    assert smootherstep(np.array([0.0, 0.5, 1.0])).tolist() == [0.0, 0.5, 1.0]


def test_what_changed_is_white() -> None:
    distance = np.zeros((16, 16), dtype=np.float32)
    distance[4:12, 4:12] = 100.0
    mask = change_mask(distance, 0.5, 2)
    assert mask[8, 8] >= 254
    assert mask[0, 0] == 0


def test_a_threshold_of_nothing_divides_by_nothing() -> None:
    assert change_mask(np.zeros((4, 4)), 0.0, 2).shape == (4, 4)


def test_masks_grow_to_the_picture_and_the_overlay_keeps_what_is_black() -> None:
    small = np.zeros((8, 8), dtype=np.uint8)
    small[:, 4:] = 255
    mask = picture_mask(small, 64, 64, (64, 64), None)
    assert (mask.mode, mask.size) == ("L", (64, 64))
    overlay = overlay_outside(Image.new("RGBA", (64, 64), "red"), mask)
    assert overlay.getpixel((2, 32))[3] == 255
    assert overlay.getpixel((62, 32))[3] == 0
    part = picture_mask(small, 64, 64, (200, 100), (100, 20, 64, 64))
    assert part.size == (200, 100)
    assert part.convert("L").getpixel((5, 5)) == 0
    assert part.convert("L").getpixel((160, 50)) == 255


def test_noise_continues_the_colours_and_leaves_the_picture_alone() -> None:
    rng = np.random.default_rng(1)
    image = np.clip(np.array([0.8, 0.3, 0.1]) + rng.normal(0, 0.05, (64, 96, 3)), 0, 1)
    mask = np.zeros_like(image)
    mask[:, 64:] = 1.0
    image[:, 64:] = 0.0
    filled = matched_noise(image, mask)
    assert np.array_equal(filled[:, :64], image[:, :64])
    assert np.allclose(filled[:, 64:].mean(axis=(0, 1)), [0.8, 0.3, 0.1], atol=0.02)
    assert filled[:, 64:].std() > 0.01
    assert np.array_equal(filled, matched_noise(image, mask))


def test_noise_for_pictures_without_anything_to_match() -> None:
    black, everything = np.zeros((32, 32, 3)), np.ones((32, 32, 3))
    assert np.isfinite(matched_noise(black, everything)).all()
    assert np.array_equal(matched_noise(everything, black), everything)
