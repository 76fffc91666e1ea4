"""Depth by LeReS, white is near (`engine/annotators/leres.py`); `depth_leres++` merges several looks at the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdwebui_api.control.boosting import Booster
from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorContext, PreprocessorResult, Slider
from sdwebui_api.control.preprocessors.sizes import detect_at
from sdwebui_api.control.weights import WeightFile, picture_network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdwebui_api.control.preprocessor import Picture

LERES = WeightFile("leres", "res101.pth", "lllyasviel/Annotators")
MERGING = WeightFile("leres", "latest_net_G.pth", "lllyasviel/Annotators")
SLIDERS = (Slider("Remove Near %", 0, 0, 100, 0.1), Slider("Remove Background %", 0, 0, 100, 0.1))


def depth_leres(
    image: Picture, *, resolution: int, slider_1: float, slider_2: float, context: PreprocessorContext, **_: Any
) -> PreprocessorResult:
    """`slider_1`, `slider_2`: percent of the depth that is cut off, white in front, black behind."""
    path = LERES.find(context, "depth_leres")
    from sdwebui_api.engine.annotators.leres import build_leres

    with picture_network(context, path, build_leres, "LeReS network") as found:
        return PreprocessorResult(
            detect_at(image, resolution, lambda rgb: depth_shades(found.run(rgb), slider_1, slider_2))
        )


def depth_leres_boosted(
    image: Picture, *, resolution: int, slider_1: float, slider_2: float, context: PreprocessorContext, **_: Any
) -> PreprocessorResult:
    """The same with finer details (`control/boosting.py`)."""
    path, merging_path = (file.find(context, "depth_leres++") for file in (LERES, MERGING))
    from sdwebui_api.engine.annotators.depth_merging import build_depth_merging
    from sdwebui_api.engine.annotators.leres import build_leres

    with (
        picture_network(context, path, build_leres, "LeReS network") as found,
        picture_network(context, merging_path, build_depth_merging, "network that merges depths") as merging,
    ):
        booster = Booster(found.run, lambda coarse, fine: merging.run(np.stack([coarse, fine], axis=2) * 255.0))
        return PreprocessorResult(
            detect_at(image, resolution, lambda rgb: depth_shades(booster.depth(rgb), slider_1, slider_2))
        )


def depth_shades(depth: NDArray[np.float32], near_percent: float, far_percent: float) -> Picture:
    """`[H, W]`, far is large → uint8 `[H, W]`; what is nearer than `near_percent` white, beyond `far_percent` black."""
    low, high = float(depth.min()), float(depth.max())
    farness = np.rint((depth - low) / max(high - low, 1e-9) * 255.0)
    farness[farness <= near_percent / 100 * 255] = 0
    nearness = 255.0 - farness
    nearness[nearness <= far_percent / 100 * 255] = 0
    return nearness.astype(np.uint8)


PREPROCESSORS = (
    Preprocessor("depth_leres", "depth_leres", depth_leres, sliders=SLIDERS, tags=("Depth",)),
    Preprocessor("depth_leres++", "depth_leres++", depth_leres_boosted, sliders=SLIDERS, tags=("Depth",)),
)
