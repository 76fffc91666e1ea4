"""Depth maps, white is near, by networks in transformers' format (`engine/depth.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorResult, RunPreprocessor
from sdwebui_api.control.preprocessors.sizes import detect_at
from sdwebui_api.control.weights import WeightFile, network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdwebui_api.control.preprocessor import Picture, PreprocessorContext

CONFIG = "config.json"
MIDAS = WeightFile("midas", CONFIG, "with the other files of Intel/dpt-hybrid-midas")
NEAREST_PERCENT, FARTHEST_PERCENT = 2, 85
"""What metric depths are cut to: beyond, everything is equally near or far (ZoeDepth's own habit)."""


def depth_map(depth: NDArray[np.float32], *, metric: bool) -> Picture:
    """`[H, W]` in any unit → uint8 `[H, W]`, white where it is near. `metric`: large is far."""
    depth = np.nan_to_num(depth.astype(np.float64))
    low, high = depth.min(), depth.max()
    if metric:
        low, high = np.percentile(depth, (NEAREST_PERCENT, FARTHEST_PERCENT))
    shares = (depth - low) / max(high - low, 1e-9)
    return ((1.0 - shares if metric else shares) * 255.0).clip(0, 255).astype(np.uint8)


def _runner(name: str, file: WeightFile) -> RunPreprocessor:
    def run(image: Picture, *, resolution: int, context: PreprocessorContext, **_: Any) -> PreprocessorResult:
        folder = file.find(context, name).parent
        from sdwebui_api.engine.depth import DepthNetwork, load_depth_network

        with network(context, folder, load_depth_network, DepthNetwork) as found:
            return PreprocessorResult(
                detect_at(image, resolution, lambda rgb: depth_map(found.depth(rgb), metric=found.metric))
            )

    return run


def _preprocessor(name: str, label: str, folder: str, origin: str, priority: int = 0) -> Preprocessor:
    file = WeightFile(folder, CONFIG, f"with the other files of {origin}")
    return Preprocessor(name, label, _runner(name, file), tags=("Depth",), sort_priority=priority)


PREPROCESSORS = (
    _preprocessor("depth", "depth_midas", "midas", "Intel/dpt-hybrid-midas", 100),
    _preprocessor("depth_zoe", "depth_zoe", "zoedepth", "Intel/zoedepth-nyu-kitti"),
    _preprocessor("depth_anything", "depth_anything", "depth_anything", "LiheYoung/depth-anything-large-hf"),
    _preprocessor(
        "depth_anything_v2", "depth_anything_v2", "depth_anything_v2", "depth-anything/Depth-Anything-V2-Small-hf"
    ),
)
