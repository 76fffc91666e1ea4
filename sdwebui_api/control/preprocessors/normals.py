"""Which way surfaces face: red to the right, green down, blue towards us, 128 for none of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorContext, PreprocessorResult, Slider
from sdwebui_api.control.preprocessors.depth import MIDAS
from sdwebui_api.control.preprocessors.sizes import detect_at
from sdwebui_api.control.weights import WeightFile, network, picture_network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdwebui_api.control.preprocessor import Picture

BAE = WeightFile("normal_bae", "scannet.pt", "lllyasviel/Annotators")
DSINE = WeightFile("normal_dsine", "dsine.pt", "bdsqlsz/qinglong_controlnet-lllite")

_TOWARDS = 2 * math.pi
"""A normal's part towards us beside slopes in MiDaS's own unit (the extension's midas_normal)."""


def normal_bae(image: Picture, *, resolution: int, context: PreprocessorContext, **_: Any) -> PreprocessorResult:
    path = BAE.find(context, "normal_bae")
    from sdwebui_api.engine.annotators.normal_bae import build_normal_bae

    with picture_network(context, path, build_normal_bae, "network for normals (NormalBae)") as found:
        return PreprocessorResult(detect_at(image, resolution, lambda rgb: _shades(found.run(rgb))))


def normal_dsine(
    image: Picture, *, resolution: int, slider_1: float, slider_2: float, context: PreprocessorContext, **_: Any
) -> PreprocessorResult:
    """`slider_1`: degrees that the longer side spans. `slider_2`: how often the guess is refined."""
    path = DSINE.find(context, "normal_dsine")
    from sdwebui_api.engine.annotators.dsine import build_dsine

    def normals(rgb: Picture) -> Picture:
        return _shades(found.run(rgb, field_of_view=slider_1, iterations=slider_2))

    with picture_network(context, path, build_dsine, "network for normals (DSINE)") as found:
        return PreprocessorResult(detect_at(image, resolution, normals))


def normal_map(
    image: Picture, *, resolution: int, slider_1: float, context: PreprocessorContext, **_: Any
) -> PreprocessorResult:
    """The slopes of MiDaS's depths; what is farther than `slider_1` (0 the farthest, 1 the nearest) is flat."""
    folder = MIDAS.find(context, "normal_map").parent
    from sdwebui_api.engine.depth import DepthNetwork, load_depth_network

    with network(context, folder, load_depth_network, DepthNetwork) as found:
        return PreprocessorResult(detect_at(image, resolution, lambda rgb: _shades(slopes(found.depth(rgb), slider_1))))


def slopes(depth: NDArray[np.float32], background: float) -> NDArray[np.float32]:
    """`[H, W]`, near is large → normals `[3, H, W]` of length 1."""
    low, high = float(depth.min()), float(depth.max())
    nearness = (depth - low) / max(high - low, 1e-9)
    across, down = (np.array(cv2.Sobel(depth, cv2.CV_32F, *axes, ksize=3)) for axes in ((1, 0), (0, 1)))
    flat = nearness < background
    across[flat] = down[flat] = 0
    normals = np.stack([across, down, np.full_like(across, _TOWARDS)])
    return np.asarray(normals / np.linalg.norm(normals, axis=0, keepdims=True), dtype=np.float32)


def _shades(normals: NDArray[np.float32]) -> Picture:
    return ((normals.transpose(1, 2, 0) + 1) * 127.5).clip(0, 255).astype(np.uint8)


PREPROCESSORS = (
    Preprocessor("normal_bae", "normal_bae", normal_bae, tags=("NormalMap",), sort_priority=100),
    Preprocessor(
        "normal_map",
        "normal_midas",
        normal_map,
        sliders=(Slider("Normal Background Threshold", 0.4, 0.0, 1.0, 0.01),),
        tags=("NormalMap",),
    ),
    Preprocessor(
        "normal_dsine",
        "normal_dsine",
        normal_dsine,
        sliders=(Slider("Fov", 60, 0, 360, 0.1), Slider("Iterations", 5, 1, 20)),
        tags=("NormalMap",),
    ),
)
