from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdwebui_api.errors import BadRequest
from sdwebui_api.imaging.codec import encode_image
from sdwebui_api.imaging.color import apply_color_correction, blend_luminosity, setup_color_correction
from sdwebui_api.imaging.grid import grid_rows, image_grid
from sdwebui_api.imaging.metadata import exif_with_comment, read_info_from_image
from tests.imaging.golden import psnr, recorded_image

CASE = "batch-2x2-save-images-grid"


def test_grid_equals_the_recorded_one() -> None:
    grid = image_grid([recorded_image(CASE, index) for index in range(1, 5)], batch_size=2)
    assert psnr(grid, recorded_image(CASE, 0)) == float("inf")


@pytest.mark.parametrize(
    ("count", "n_rows", "prevent", "rows"),
    [
        *((1, -1, False, 1), (2, -1, False, 1), (3, -1, False, 2), (7, -1, False, 3), (7, -1, True, 1)),
        *((6, -1, True, 2), (7, 0, False, 4), (7, 3, False, 3), (2, 9, False, 2), (7, 2.0, True, 2)),
    ],
)
def test_grid_rows(count: int, n_rows: float, prevent: bool, rows: int) -> None:
    assert grid_rows(count, 4, n_rows, prevent) == rows


def test_grid_centres_small_pictures_on_the_background() -> None:
    grid = image_grid([Image.new("RGB", (4, 4), "red"), Image.new("RGB", (2, 2), "lime")], background="#0000ff")
    assert grid.size == (8, 4)
    assert [grid.getpixel(xy) for xy in ((0, 0), (4, 0), (5, 1))] == [(255, 0, 0), (0, 0, 255), (0, 255, 0)]
    with pytest.raises(BadRequest):
        image_grid([grid], background="no colour")


def test_luminosity_blend() -> None:
    noise = Image.merge("RGB", [Image.effect_noise((32, 32), 120) for _ in range(3)])
    assert blend_luminosity(noise, noise).tobytes() == noise.tobytes()
    grey = Image.new("RGB", (1, 1), (100, 100, 100))
    red, green, blue = blend_luminosity(Image.new("RGB", (1, 1), (255, 0, 0)), grey).getpixel((0, 0))
    assert red > 200 and green == blue
    assert abs(0.299 * red + 0.587 * green + 0.114 * blue - 100) < 1.5
    for extreme in ((0, 0, 0), (255, 255, 255)):
        assert blend_luminosity(noise, Image.new("RGB", (32, 32), extreme)).getextrema() == tuple(
            (value, value) for value in extreme
        )


def test_color_correction_takes_colours_and_keeps_luminosity() -> None:
    start, result = recorded_image("sampler-euler"), recorded_image("sampler-euler-a")
    same = apply_color_correction(setup_color_correction(result), result)
    assert psnr(same, result) > 35  # what the way through 8-bit Lab costs
    corrected = apply_color_correction(setup_color_correction(start), result)
    luma = np.array([0.299, 0.587, 0.114])
    before, after = np.asarray(result) @ luma, np.asarray(corrected) @ luma
    assert np.abs(before - after).max() < 2
    assert corrected.tobytes() != result.tobytes()


def test_novelai_text_becomes_an_infotext() -> None:
    image = Image.new("RGB", (64, 48))
    settings = {"sampler": "k_euler", "uc": "bad", "steps": 28, "scale": 11, "seed": 5}
    image.info = {"Software": "NovelAI", "Description": "a cat", "Comment": json.dumps(settings), "dpi": (72, 72)}
    infotext, items = read_info_from_image(image)
    assert infotext == (
        "a cat\nNegative prompt: bad\n"
        "Steps: 28, Sampler: Euler, CFG scale: 11, Seed: 5, Size: 64x48, Clip skip: 2, ENSD: 31337"
    )
    assert set(items) == {"Software", "Description", "Comment"}
    for comment in ("not json", "[" * 100_000):
        image.info["Comment"] = comment
        assert read_info_from_image(image)[0] is None


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0garbage", b"x" * 50, b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_damaged_exif_is_no_error(exif: bytes) -> None:
    image = Image.new("RGB", (4, 4))
    image.info = {"exif": exif, "parameters": "p"}
    assert read_info_from_image(image) == ("p", {})


def test_exif_names_no_file_of_the_server(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden.jpg"
    hidden.write_bytes(encode_image(Image.new("RGB", (4, 4)), "jpg", infotext="not for clients"))
    image = Image.new("RGB", (4, 4))
    for exif in (str(hidden), str(hidden).encode(), b"Exif\0\0" + str(hidden).encode()):
        image.info = {"exif": exif, "parameters": "p"}
        assert read_info_from_image(image) == ("p", {})


def test_a_wrong_count_in_exif_costs_no_time() -> None:
    exif = exif_with_comment("a cat")
    image = Image.new("RGB", (4, 4))
    image.info = {"exif": exif}
    assert read_info_from_image(image)[0] == "a cat"
    at = exif.index(b"\x87\x69\x00\x04") + 4
    image.info = {"exif": exif[:at] + b"\xff\xff\xff\xff" + exif[at + 4 :], "parameters": "p"}
    started = time.monotonic()
    assert read_info_from_image(image)[0] == "p"
    assert time.monotonic() - started < 5.0
