from __future__ import annotations

import pytest
from PIL import Image

from sdwebui_api.errors import BadRequest
from sdwebui_api.imaging.annotations import Annotation, Colours, annotate_grid, wrap
from sdwebui_api.imaging.grid import image_grid
from tests.imaging.golden import psnr, recorded_image

FLOOR = 60.0
"""dB. The letters of another FreeType differ by a level here and there."""


def label(*texts: str) -> list[Annotation]:
    return [Annotation(text) for text in texts]


def test_a_legend_equals_the_recorded_one() -> None:
    pictures = [recorded_image("script-xyz-legend", index) for index in range(1, 5)]
    columns, rows = [label("red"), label("green")], [label("Seed: 5"), label("Seed: 6")]
    annotated = annotate_grid(image_grid(pictures, rows=2), (128, 128), columns, rows, margin=4)
    assert psnr(annotated, recorded_image("script-xyz-legend", 0)) > FLOOR


def test_inactive_parts_are_struck_through_as_recorded() -> None:
    pictures = [recorded_image("script-prompt-matrix", index) for index in range(1, 5)]
    columns = [[Annotation("sticker", False)], [Annotation("sticker")]]
    rows = [[Annotation("on a blue background", False)], [Annotation("on a blue background")]]
    annotated = annotate_grid(image_grid(pictures, rows=2), (128, 128), columns, rows)
    assert psnr(annotated, recorded_image("script-prompt-matrix", 0)) > FLOOR


def test_empty_labels_take_no_room() -> None:
    grid = Image.new("RGB", (16, 8), "red")
    assert annotate_grid(grid, (8, 8), [label(""), label("")], [label("")]).size == grid.size
    apart = annotate_grid(grid, (8, 8), [label(""), label("")], [label("")], margin=3)
    assert apart.size == (19, 8)
    assert apart.getpixel((8, 0)) == (255, 255, 255)


def test_a_word_too_long_for_its_column_shrinks() -> None:
    grid = Image.new("RGB", (256, 256))
    annotated = annotate_grid(grid, (256, 256), [label("incomprehensibilities" * 4)], [label("")])
    above = annotated.crop((0, 0, annotated.width, annotated.height - 256)).convert("L")
    left, _, right, _ = above.point(lambda value: 255 - value).getbbox()
    assert left >= 0
    assert right <= 256
    assert right - left > 200


def test_wrapping_between_words() -> None:
    assert wrap("a bb ccc", 4, len) == ["a bb", "ccc"]
    assert wrap("", 4, len) == [""]
    assert wrap("much", 2, len) == ["", "much"]


def test_fonts_and_colours_that_are_none() -> None:
    grid = Image.new("RGB", (8, 8))
    for font in (__file__, "a\0b"):
        with pytest.raises(BadRequest, match="font"):
            annotate_grid(grid, (8, 8), [label("a")], [label("b")], font=font)
    with pytest.raises(BadRequest, match="colour"):
        annotate_grid(grid, (8, 8), [label("a")], [label("b")], colours=Colours(active="no colour"))
