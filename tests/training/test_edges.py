"""The measure that decides which weights are kept."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from training.edges import agreement, canny, varied_canny


def _line(column: int, rows: int = 40) -> np.ndarray:
    edges = np.zeros((64, 64), bool)
    edges[:rows, column] = True
    return edges


@pytest.mark.parametrize(("distance", "expected"), [(0, 1.0), (2, 1.0), (3, 0.0)])
def test_edges_agree_within_two_pixels(distance: int, expected: float) -> None:
    assert agreement(_line(20), _line(20 + distance)) == expected


def test_agreement_is_the_harmonic_mean_of_precision_and_recall() -> None:
    both = _line(20) | _line(50)
    assert agreement(_line(20), both) == pytest.approx(2 * 0.5 * 1 / 1.5)  # half of `both` is right, nothing is missing
    assert agreement(both, _line(20)) == pytest.approx(2 * 1 * 0.5 / 1.5)


def test_empty_maps() -> None:
    nothing = np.zeros((64, 64), bool)
    assert agreement(nothing, nothing) == 1.0
    assert agreement(nothing, _line(3)) == agreement(_line(3), nothing) == 0.0


def test_canny_finds_outlines_and_varied_canny_finds_about_the_same() -> None:
    picture = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(picture).ellipse((20, 30, 90, 100), fill="navy")
    edges = canny(picture)
    assert edges.dtype == bool and edges[30 - 2 : 30 + 3, 55].any() and not edges[60:70, 50:60].any()
    for seed in range(12):
        assert agreement(edges, varied_canny(picture, Random(seed))) > 0.9
