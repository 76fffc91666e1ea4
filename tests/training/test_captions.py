from __future__ import annotations

from random import Random

from training.captions import NEGATIVES, caption, plain_caption, plural, training_caption
from training.glyphs import Glyph
from training.scenes import WIDE_MIX, Background, Composer, Placed, Scene


def test_the_same_seed_gives_the_same_captions(glyphs: list[Glyph]) -> None:
    def captions(seed: int) -> list[str]:
        random, composer = Random(seed), Composer(glyphs, WIDE_MIX)
        return [training_caption(composer.scene(random), random) for _ in range(100)]

    assert captions(3) == captions(3) != captions(4)


def test_captions_name_what_the_picture_shows(glyphs: list[Glyph]) -> None:
    scene = Scene((Placed(glyphs[0]), Placed(glyphs[1])), Background(("light blue",), named=True), "pair")
    for seed in range(50):
        text = caption(scene, Random(seed))
        assert text == text.lower()
        assert "light blue" in text
        assert any(noun in text for noun in ("red apple", "thing"))
        assert any(noun in text for noun in ("automobile", "car", "thing"))


def test_plain_white_is_left_out_and_sizes_and_places_are_said(glyphs: list[Glyph]) -> None:
    scene = Scene((Placed(glyphs[0], 0.25, 0.5, 0.4, "small", "on the left"),), layout="varied")
    texts = [caption(scene, Random(seed)) for seed in range(30)]
    assert all("small" in text and "on the left" in text and "background" not in text for text in texts)


def test_a_tenth_of_the_captions_is_empty_and_some_are_negatives(glyphs: list[Glyph]) -> None:
    scene = Scene((Placed(glyphs[0]),))
    texts = [training_caption(scene, Random(seed)) for seed in range(1000)]
    assert 70 < texts.count("") < 130
    assert any(text in NEGATIVES for text in texts)


def test_copies_are_counted(glyphs: list[Glyph]) -> None:
    scene = Scene((Placed(glyphs[3]),) * 3, layout="several")
    texts = {caption(scene, Random(seed)) for seed in range(20)}
    assert any("three green books" in text for text in texts)


def test_small_grammar(glyphs: list[Glyph]) -> None:
    assert plain_caption(glyphs[1].emoji) == "an automobile"
    assert [plural(noun) for noun in ("cherry", "key", "box", "jeans")] == ["cherries", "keys", "boxes", "jeans"]
