"""The option `fp8_storage` of a request."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdwebui_api.generation.request import GenerationResult
from tests.generation.conftest import Studio


def test_a_request_may_ask_for_float8_weights(studio: Studio) -> None:
    plain = studio.txt2img()
    eight = studio.txt2img(override_settings={"randn_source": "CPU", "fp8_storage": "Enable"})
    assert "FP8 weight: Enable, Cache FP16 weight for LoRA: False" in eight.images[0].infotext
    assert "FP8" not in plain.images[0].infotext and not eight.info["warnings"]
    one, near, far = (pixels(result) for result in (plain, eight, studio.txt2img(seed=6)))
    assert 0 < distance(one, near) < 0.5 * distance(one, far)
    assert np.array_equal(pixels(studio.txt2img()), one)


def pixels(result: GenerationResult) -> NDArray[np.float64]:
    return np.asarray(result.images[0].image, dtype=np.float64)


def distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.sqrt(((one - other) ** 2).mean()))
