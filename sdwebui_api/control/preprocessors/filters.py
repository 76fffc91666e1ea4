"""Line drawings and tones by classic image filters, without weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorResult, Slider
from sdwebui_api.control.preprocessors.sizes import detect_at

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import Picture


def threshold(image: Picture, *, resolution: int, slider_1: float, **_: Any) -> PreprocessorResult:
    """White where every channel is above `slider_1`."""
    return PreprocessorResult(detect_at(image, resolution, lambda rgb: _white_where(rgb.min(axis=2) > slider_1)))


def blur_gaussian(image: Picture, *, resolution: int, slider_1: float, **_: Any) -> PreprocessorResult:
    """The picture out of focus; `slider_1`: the standard deviation in pixels."""
    return PreprocessorResult(detect_at(image, resolution, lambda rgb: _uint8(cv2.GaussianBlur(rgb, (0, 0), slider_1))))


def lineart_standard(image: Picture, *, resolution: int, **_: Any) -> PreprocessorResult:
    """What is darker than its surroundings, brightened until half of it is at least grey."""
    return PreprocessorResult(detect_at(image, resolution, dark_lines))


def dark_lines(rgb: Picture) -> Picture:
    darkness = _surroundings(rgb, 6.0) - rgb
    strength = darkness.min(axis=2).clip(0, 255)
    lines = strength[strength > 8]
    # Never brightened more than 16 times: an empty page has no lines, only grain.
    typical = max(16.0, float(np.median(lines))) if lines.size else 16.0
    return _uint8((strength / typical * 127).clip(0, 255))


def scribble_xdog(image: Picture, *, resolution: int, slider_1: float, **_: Any) -> PreprocessorResult:
    """Strokes where the difference of two blurs (XDoG, Winnemöller 2012) exceeds half of `slider_1`."""

    def strokes(rgb: Picture) -> Picture:
        difference = (_surroundings(rgb, 5.0) - _surroundings(rgb, 0.5)).min(axis=2)
        # Rounded as a picture of 8 bits rounds the inverted difference.
        inverted = _uint8((255 - difference).clip(0, 255)).astype(np.int32)
        return _white_where(2 * (255 - inverted) > slider_1)

    return PreprocessorResult(detect_at(image, resolution, strokes))


def _surroundings(rgb: Picture, sigma: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.asarray(cv2.GaussianBlur(rgb.astype(np.float32), (0, 0), sigma), dtype=np.float32)


def _white_where(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> Picture:
    return mask.astype(np.uint8) * np.uint8(255)


def _uint8(image: Any) -> Picture:
    return np.asarray(image).astype(np.uint8)


PREPROCESSORS = (
    Preprocessor("threshold", "threshold", threshold, sliders=(Slider("Binarization Threshold", 127, 0, 255, 0.01),)),
    Preprocessor(
        "blur_gaussian",
        "blur_gaussian",
        blur_gaussian,
        sliders=(Slider("Sigma", 9.0, 0.01, 64.0, 0.01),),
        tags=("Tile",),
    ),
    Preprocessor(
        "lineart_standard",
        "lineart_standard (from white bg & black line)",
        lineart_standard,
        tags=("Lineart",),
        sort_priority=100,
    ),
    Preprocessor(
        "scribble_xdog",
        "scribble_xdog",
        scribble_xdog,
        sliders=(Slider("XDoG Threshold", 32, 1, 64, 0.01),),
        tags=("Scribble", "SparseCtrl"),
    ),
)
