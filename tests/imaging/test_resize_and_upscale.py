from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sdwebui_api.errors import BadRequest, NotFound, PayloadTooLarge
from sdwebui_api.imaging.resize import flatten, resize_image
from sdwebui_api.imaging.upscale import WEIGHT_FREE_UPSCALERS, Upscaler, find_upscaler

NEAREST = WEIGHT_FREE_UPSCALERS["Nearest"]


def stripes() -> Image.Image:
    """192x128, every column its own grey."""
    return Image.fromarray(np.tile(np.arange(192, dtype=np.uint8), (128, 1))).convert("RGB")


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [(128, 128), (64, 256), (256, 64), (192, 128), (1, 1), (8, 2000)])
@pytest.mark.parametrize("upscaler", [None, NEAREST])
def test_sizes(mode: int, size: tuple[int, int], upscaler: Upscaler | None) -> None:
    if mode == 1 and size == (1, 1):
        return
    assert resize_image(mode, stripes(), *size, upscaler).size == size


def test_crop_keeps_the_middle_and_fill_repeats_the_border() -> None:
    cropped = np.asarray(resize_image(1, stripes(), 128, 128))
    np.testing.assert_array_equal(cropped, np.asarray(stripes())[:, 32:160])
    filled = np.asarray(resize_image(2, stripes(), 256, 128))
    np.testing.assert_array_equal(filled[:, 32:224], np.asarray(stripes()))
    assert (filled[:, :32] == filled[:, :1]).all() and (filled[:, 224:] == filled[:, -1:]).all()
    tall = np.asarray(resize_image(2, stripes(), 192, 200))
    np.testing.assert_array_equal(tall[36:164], np.asarray(stripes()))
    np.testing.assert_array_equal(tall[0], tall[36])


def test_a_strip_is_not_cropped_by_way_of_gigabytes() -> None:
    with pytest.raises(PayloadTooLarge, match="1x2000"):
        resize_image(1, Image.new("RGB", (1, 2000)), 512, 512)
    assert resize_image(1, Image.new("RGB", (10, 2000)), 512, 512).size == (512, 512)


def test_masks_stay_masks_only_in_mode_0() -> None:
    mask = Image.new("L", (10, 20))
    assert [resize_image(mode, mask, 16, 16, NEAREST).mode for mode in (0, 1, 2)] == ["L", "RGB", "RGB"]


def test_flatten() -> None:
    half = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert flatten(half, "#102030").getpixel((0, 0)) == (16, 32, 48)
    assert flatten(Image.new("L", (2, 2), 7), "nonsense").getpixel((0, 0)) == (7, 7, 7)
    with pytest.raises(BadRequest):
        flatten(half, "nonsense")


def test_upscaling_rounds_down_to_multiples_of_8() -> None:
    image = Image.new("RGB", (100, 90))
    assert NEAREST.upscale(image, 1.5).size == (144, 128)
    assert NEAREST.upscale(image, 2).size == (200, 176)


def test_networks_run_until_the_picture_is_large_enough() -> None:
    calls = []

    def twice(image: Image.Image, scale: float) -> Image.Image:
        calls.append(image.size)
        return image.resize((image.width * 2, image.height * 2))

    network = Upscaler("2x", twice)
    assert network.upscale(Image.new("RGB", (16, 16)), 5).size == (80, 80)
    assert calls == [(16, 16), (32, 32), (64, 64)]
    calls.clear()
    assert network.upscale(Image.new("RGB", (16, 16)), 1).size == (16, 16)
    assert len(calls) == 1  # scale 1 still restores
    calls.clear()
    network.upscale(Image.new("RGB", (16, 16)), 0.5)
    assert not calls


def test_finding_upscalers() -> None:
    assert find_upscaler("nearest", "hr_upscaler") is NEAREST
    with pytest.raises(NotFound) as caught:
        find_upscaler("Lancsoz", "hr_upscaler")
    assert caught.value.field == "hr_upscaler" and "Lanczos" in caught.value.choices
