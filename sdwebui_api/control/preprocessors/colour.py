"""Colours kept, dropped or stirred: recolor, tile with the colours fixed, colour grid, shuffle."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorResult, Slider
from sdwebui_api.control.preprocessors.sizes import as_rgb, detect_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdwebui_api.control.preprocessor import Picture

GRID_CELL = 64
SHUFFLE_SCALE = 256
"""Pixels over which shuffled places keep together."""

GAMMA = Slider("Gamma Correction", 1.0, 0.1, 2.0, 0.001)
VARIATION = Slider("Variation", 8.0, 3.0, 32.0, 1.0)


def recolor_luminance(image: Picture, *, slider_1: float, **_: Any) -> PreprocessorResult:
    """The lightness L of L*a*b*, to the power of `slider_1`."""
    # As the extension, which takes red for blue here (`scripts/processor.py`, recolor_luminance).
    return _channel(cv2.cvtColor(as_rgb(image), cv2.COLOR_BGR2LAB)[:, :, 0], slider_1)


def recolor_intensity(image: Picture, *, slider_1: float, **_: Any) -> PreprocessorResult:
    """The value V of HSV, to the power of `slider_1`."""
    return _channel(cv2.cvtColor(as_rgb(image), cv2.COLOR_RGB2HSV)[:, :, 2], slider_1)


def _channel(channel: Any, gamma: float) -> PreprocessorResult:
    values = (np.asarray(channel).astype(np.float32) / 255.0) ** gamma
    return PreprocessorResult(as_rgb((values * 255.0).clip(0, 255).astype(np.uint8)))


def tile_colorfix(image: Picture, **_: Any) -> PreprocessorResult:
    """The picture itself; its colours are put back while sampling (`control/finishing.py`)."""
    return PreprocessorResult(as_rgb(image))


def color_grid(image: Picture, *, resolution: int, **_: Any) -> PreprocessorResult:
    """One colour for each 64 x 64 pixels."""
    return PreprocessorResult(detect_at(image, resolution, _in_cells))


def _in_cells(rgb: Picture) -> Picture:
    height, width = rgb.shape[:2]
    cells = cv2.resize(rgb, (width // GRID_CELL, height // GRID_CELL), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def shuffle(image: Picture, **_: Any) -> PreprocessorResult:
    """The picture's matter in other places: pixels are fetched from where smooth noise says.

    The noise depends on the picture alone, so that a request gives the same image each time.
    """
    rgb = as_rgb(image)
    height, width = rgb.shape[:2]
    random = np.random.default_rng(zlib.crc32(np.ascontiguousarray(rgb).tobytes()))
    across = _smooth_noise(random, height, width) * (width - 1)
    down = _smooth_noise(random, height, width) * (height - 1)
    return PreprocessorResult(np.asarray(cv2.remap(rgb, across, down, cv2.INTER_LINEAR), dtype=np.uint8))


def _smooth_noise(random: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """`[height, width]` from 0 to 1, wavy over `SHUFFLE_SCALE` pixels."""
    coarse = random.random((height // SHUFFLE_SCALE + 2, width // SHUFFLE_SCALE + 2), dtype=np.float32)
    size = (width + SHUFFLE_SCALE, height + SHUFFLE_SCALE)
    fine = np.asarray(cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC), dtype=np.float32)
    half = SHUFFLE_SCALE // 2
    fine = fine[half : half + height, half : half + width]
    fine = fine - fine.min()
    return fine / max(float(fine.max()), 1e-6)


PREPROCESSORS = (
    Preprocessor(
        "recolor_luminance",
        "recolor_luminance",
        recolor_luminance,
        sliders=(GAMMA,),
        tags=("Recolor",),
        sort_priority=100,
    ),
    Preprocessor("recolor_intensity", "recolor_intensity", recolor_intensity, sliders=(GAMMA,), tags=("Recolor",)),
    Preprocessor("tile_colorfix", "tile_colorfix", tile_colorfix, sliders=(VARIATION,), tags=("Tile",)),
    Preprocessor(
        "tile_colorfix+sharp",
        "tile_colorfix+sharp",
        tile_colorfix,
        sliders=(VARIATION, Slider("Sharpness", 1.0, 0.0, 2.0, 0.01)),
        tags=("Tile",),
    ),
    Preprocessor("color", "t2ia_color_grid", color_grid, tags=("T2I-Adapter",)),
    Preprocessor("shuffle", "shuffle", shuffle, resolution=None, tags=("Shuffle",)),
)
