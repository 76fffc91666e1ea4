from __future__ import annotations

from random import Random

import numpy as np
import pytest

from training.glyphs import Glyph
from training.scenes import BASIC_MIX, COLOURS, WIDE_MIX, Background, Composer, Placed, Scene, SceneMix, draw_scene


@pytest.mark.parametrize("mix", [BASIC_MIX, WIDE_MIX])
def test_the_same_seed_gives_the_same_scenes_and_pictures(glyphs: list[Glyph], mix: SceneMix) -> None:
    def scenes(seed: int) -> list[Scene]:
        random, composer = Random(seed), Composer(glyphs, mix)
        return [composer.scene(random) for _ in range(30)]

    first, again = scenes(1), scenes(1)
    assert first == again != scenes(2)
    for one, other in zip(first, again, strict=True):
        assert draw_scene(one, 64, 64).tobytes() == draw_scene(other, 64, 64).tobytes()


def test_one_scene_can_be_drawn_at_any_size_and_aspect(glyphs: list[Glyph]) -> None:
    scene = Scene((Placed(glyphs[0], size=0.5),), Background(("blue",), named=True), "varied")
    for width, height in ((128, 128), (512, 512), (192, 128)):
        pixels = np.asarray(draw_scene(scene, width, height))
        assert pixels.shape == (height, width, 3)
        assert tuple(pixels[0, 0]) == COLOURS["blue"]
        assert pixels[height // 2, width // 2, 0] > 200  # the red disc
        inside = (pixels != np.array(COLOURS["blue"])).any(-1).any(0).sum()
        assert inside == pytest.approx(min(width, height) / 2, abs=3)


@pytest.mark.parametrize("pattern", ["gradient", "striped", "dotted"])
def test_patterns_show_both_of_their_colours(pattern: str, glyphs: list[Glyph]) -> None:
    scene = Scene((Placed(glyphs[0], size=0.05),), Background(("black", "white"), pattern, named=True), "varied")
    pixels = np.asarray(draw_scene(scene, 128, 128))
    assert pixels.min() < 20 and pixels.max() > 245


def test_popular_glyphs_come_more_often(glyphs: list[Glyph]) -> None:
    random, composer = Random(0), Composer(glyphs, SceneMix(popular_weight=16))
    popular = sum(composer.glyph(random).emoji.popular for _ in range(500))
    assert popular == pytest.approx(500 * 16 / 17, abs=20)


def test_a_composer_without_glyphs_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one glyph"):
        Composer([])
