"""Depths boosted by looking closer, with stand-ins for the networks; numbers are those of the authors' code."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sdwebui_api.control import boosting
from sdwebui_api.control.boosting import Booster, best_side, parts

SIZE = (704, 512)


def blocks(columns: int, rows: int, size: tuple[int, int]) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, size, interpolation=cv2.INTER_NEAREST))


def half_busy() -> np.ndarray:
    return np.concatenate([np.full((512, 400, 3), 90, np.uint8), blocks(30, 40, (368, 512))], axis=1)


def estimate(rgb: np.ndarray) -> np.ndarray:
    grey = rgb.astype(np.float32).mean(axis=2)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), 5)) + np.linspace(0, 40, len(rgb), dtype=np.float32)[:, None]


def merge(coarse: np.ndarray, fine: np.ndarray) -> np.ndarray:
    assert coarse.shape == fine.shape == (1024, 1024)
    assert (coarse.min(), coarse.max(), fine.min(), fine.max()) == pytest.approx((0, 1, 0, 1), abs=1e-6)
    return (0.6 * coarse + 0.4 * fine).astype(np.float32)


def test_how_large_a_picture_is_looked_at() -> None:
    """The authors' `calculateprocessingres` says the same."""
    assert best_side(blocks(14, 10, SIZE)) == (1568, pytest.approx(0.38650562))
    assert best_side(half_busy()) == (672, pytest.approx(0.53571428))
    assert best_side(np.zeros((64, 64, 3), dtype=np.uint8)) == (448, 1.0)


def test_parts_are_where_something_happens() -> None:
    """The authors' `generatepatchs` finds the same."""
    assert parts(half_busy(), int(2 * 672 / 0.9), 0.9) == [(173, 0, 461)]
    many = parts(blocks(14, 10, SIZE), 2 * 1568, 1.0)
    assert len(many) == 24 and many[:3] == [(75, 0, 503), (219, 144, 366), (151, 0, 352)]
    assert not parts(np.full((100, 100, 3), 7, dtype=np.uint8), 1344, 1.0)


@pytest.mark.parametrize("picture", [blocks(14, 10, SIZE), half_busy(), np.full((70, 90, 3), 9, dtype=np.uint8)])
def test_depth_of_the_pictures_size(picture: np.ndarray) -> None:
    depth = Booster(estimate, merge if picture.std() else lambda coarse, fine: coarse).depth(picture)
    assert depth.shape == picture.shape[:2] and depth.dtype == np.float32 and np.isfinite(depth).all()


def test_parts_change_the_inside_and_no_border(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = half_busy()
    whole = Booster(estimate, merge)
    boosted = whole.depth(picture)
    monkeypatch.setattr(boosting, "parts", lambda *_: [])
    plain = whole.depth(picture)
    changed = np.abs(boosted - plain) > 1e-4
    assert changed.any() and not changed[0].any() and not changed[:, -1].any()


def test_huge_enlargements_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(boosting, "parts", lambda rgb, longer_side, factor: asked.append(longer_side) or [])
    monkeypatch.setattr(boosting, "best_side", lambda rgb: (1536, 0.0))
    Booster(estimate, merge).depth(np.zeros((8, 1600, 3), dtype=np.uint8) + np.arange(1600, dtype=np.uint8)[:, None])
    assert asked == [4096]


def test_pools_take_the_greatest() -> None:
    image = np.arange(12, dtype=np.float64).reshape(3, 4)
    assert boosting._pooled(image, 2).tolist() == [[5, 7], [9, 11]]
