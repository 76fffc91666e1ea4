"""Preprocessors without weights: the maps that A1111's extension made, and what each does to simple pictures."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdwebui_api.control.preprocessor import PreprocessorContext
from sdwebui_api.control.preprocessors.table import PREPROCESSORS, find_preprocessor, preprocessor_names
from sdwebui_api.errors import BadRequest

CASES = Path(__file__).parents[1] / "golden" / "cases"
WEIGHT_FREE = [
    "none", "canny", "invert", "tile_resample", "threshold", "blur_gaussian", "lineart_standard", "scribble_xdog",
    "recolor_luminance", "recolor_intensity", "tile_colorfix", "tile_colorfix+sharp", "color", "shuffle",
    "inpaint", "inpaint_only",
]  # fmt: skip


def run(name: str, image: np.ndarray, mask: np.ndarray | None = None, **given: float) -> np.ndarray:
    preprocessor = find_preprocessor(name)
    result = preprocessor.run(
        image,
        resolution=preprocessor.choose_resolution(given.get("resolution")),
        slider_1=preprocessor.choose_slider(0, given.get("a")),
        slider_2=preprocessor.choose_slider(1, given.get("b")),
        mask=mask,
        context=PreprocessorContext(),
    )
    return result.map


def picture(text: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("case", sorted(CASES.glob("cn-detect-*")), ids=lambda case: case.name)
def test_recorded_map(case: Path) -> None:
    body: dict[str, Any] = json.loads((case / "request.json").read_text())["body"]
    for index, text in enumerate(body["controlnet_input_images"]):
        expected = np.array(Image.open(case / f"image-{index}.png").convert("RGB"))
        found = run(
            body["controlnet_module"],
            picture(text),
            resolution=body.get("controlnet_processor_res", -1),
            a=body.get("controlnet_threshold_a", -1),
            b=body.get("controlnet_threshold_b", -1),
        )
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", WEIGHT_FREE)
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (65, 64)])
@pytest.mark.parametrize("channels", [3, 4])
def test_any_picture_has_a_map(name: str, size: tuple[int, int], channels: int) -> None:
    for image in (noise(*size, channels), np.zeros((*size, channels), dtype=np.uint8)):
        found = run(name, image, resolution=64)
        assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] in (3, 4)


def test_names_are_unique() -> None:
    names = [name.lower() for one in PREPROCESSORS for name in set(preprocessor_names(one))]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("one", PREPROCESSORS, ids=lambda one: one.name)
def test_found_by_every_name(one: Any) -> None:
    for name in preprocessor_names(one):
        assert find_preprocessor(f" {name.upper()}") is one


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(BadRequest) as refused:
        find_preprocessor("cany")
    assert refused.value.field == "module" and "canny" in refused.value.choices


def test_recolor_gamma_darkens() -> None:
    image = noise(32, 32)
    assert run("recolor_intensity", image, a=2.0).mean() < run("recolor_intensity", image).mean()
    assert np.array_equal(run("recolor_intensity", image)[:, :, 0], image.max(axis=2))


def test_shuffle_moves_the_same_colours_and_repeats_itself() -> None:
    image = noise(96, 64)
    first = run("shuffle", image)
    assert first.shape == image.shape and not np.array_equal(first, image)
    assert np.array_equal(first, run("shuffle", image))


def test_color_grid_has_one_colour_a_cell() -> None:
    found = run("color", noise(128, 128), resolution=128)
    assert all((cell == cell[0, 0]).all() for cell in (found[:64, :64], found[64:, 64:]))


def test_inpaint_carries_its_mask() -> None:
    image, mask = noise(8, 8), np.full((8, 8), 255, dtype=np.uint8)
    found = run("inpaint_only", image, mask)
    assert found.shape == (8, 8, 4) and (found[:, :, 3] == 255).all() and np.array_equal(found[:, :, :3], image)
