"""Preprocessors of a line or two, without weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorResult, Slider
from sdwebui_api.control.preprocessors.sizes import as_rgb, detect_at

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import Picture


def keep(image: Picture, **_: Any) -> PreprocessorResult:
    """The picture itself is the map."""
    return PreprocessorResult(image)


def canny(image: Picture, *, resolution: int, slider_1: float, slider_2: float, **_: Any) -> PreprocessorResult:
    """White edges on black (Canny 1986) with the hysteresis thresholds slider_1 and slider_2."""
    return PreprocessorResult(detect_at(image, resolution, lambda rgb: cv2.Canny(rgb, int(slider_1), int(slider_2))))


def invert(image: Picture, **_: Any) -> PreprocessorResult:
    """Dark lines on white become white lines on black."""
    return PreprocessorResult(255 - as_rgb(image))


def tile_resample(image: Picture, *, slider_1: float, **_: Any) -> PreprocessorResult:
    """The picture, `slider_1` times smaller: the tile network makes up the details."""
    rgb = as_rgb(image)
    if slider_1 < 1.1:
        return PreprocessorResult(rgb)
    height, width = rgb.shape[:2]
    size = max(int(width / slider_1), 1), max(int(height / slider_1), 1)
    return PreprocessorResult(np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8))


PREPROCESSORS = (
    Preprocessor("none", "none", keep, sort_priority=10),
    Preprocessor(
        "canny",
        "canny",
        canny,
        sliders=(Slider("Low Threshold", 100, 1, 255), Slider("High Threshold", 200, 1, 255)),
        tags=("Canny",),
        sort_priority=100,
    ),
    Preprocessor(
        "invert",
        "invert (from white bg & black line)",
        invert,
        resolution=None,
        tags=("Canny", "Lineart", "Scribble", "MLSD"),
        sort_priority=20,
    ),
    Preprocessor(
        "tile_resample",
        "tile_resample",
        tile_resample,
        sliders=(Slider("Down Sampling Rate", 1.0, 1.0, 8.0, 0.01),),
        tags=("Tile",),
        sort_priority=100,
    ),
)
