"""The three options of token merging: which one a pass follows, and what the infotext says."""

from __future__ import annotations

import pytest

from tests.generation.conftest import Studio
from tests.generation.test_generator import HIRES, encoded, gradient


def test_hires_pass_has_a_ratio_of_its_own(studio: Studio) -> None:
    both = studio.txt2img(
        **HIRES, steps=1, override_settings={"token_merging_ratio": 0.5, "token_merging_ratio_hr": 0.25}
    )
    assert "Token merging ratio: 0.5, Token merging ratio hr: 0.25" in both.images[0].infotext
    assert not [warning for warning in both.info["warnings"] if "token" in warning]
    first = studio.txt2img(**HIRES, steps=1, override_settings={"token_merging_ratio": 0.5})
    assert "Token merging ratio hr: 0.5" in first.images[0].infotext
    assert "Token merging" not in studio.txt2img(**HIRES, steps=1).images[0].infotext


@pytest.mark.parametrize(
    ("own", "ratio", "used"), [(0.0, 0.5, 0.5), (0.25, 0.5, 0.5), (0.25, None, 0.25)], ids=["none", "asked", "own"]
)
def test_img2img_follows_what_was_asked_for_and_then_its_own(
    studio: Studio, own: float, ratio: float | None, used: float
) -> None:
    settings = {"token_merging_ratio_img2img": own} | ({} if ratio is None else {"token_merging_ratio": ratio})
    result = studio.img2img(init_images=[encoded(gradient())], width=64, height=64, steps=1, override_settings=settings)
    assert f"Token merging ratio: {used}," in result.images[0].infotext
