"""Segmentation maps in the colours of ADE20K, by networks in transformers' format (`engine/segmentation.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorResult, RunPreprocessor
from sdwebui_api.control.preprocessors.palette import ADE20K
from sdwebui_api.control.preprocessors.sizes import detect_at
from sdwebui_api.control.weights import WeightFile, network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdwebui_api.control.preprocessor import Picture, PreprocessorContext

CONFIG = "config.json"


def painted(classes: NDArray[np.int64]) -> Picture:
    """`[H, W]` → uint8 `[H, W, 3]`; classes beyond ADE20K's 150 are black."""
    colours = np.zeros((max(int(classes.max()) + 1, len(ADE20K)), 3), dtype=np.uint8)
    colours[: len(ADE20K)] = ADE20K
    return colours[classes]


def _runner(name: str, file: WeightFile) -> RunPreprocessor:
    def run(image: Picture, *, resolution: int, context: PreprocessorContext, **_: Any) -> PreprocessorResult:
        folder = file.find(context, name).parent
        from sdwebui_api.engine.segmentation import SegmentationNetwork, load_segmentation_network

        with network(context, folder, load_segmentation_network, SegmentationNetwork) as found:
            return PreprocessorResult(detect_at(image, resolution, lambda rgb: painted(found.classes(rgb))))

    return run


def _preprocessor(name: str, label: str, folder: str, origin: str, priority: int = 0) -> Preprocessor:
    file = WeightFile(folder, CONFIG, f"with the other files of {origin}")
    return Preprocessor(name, label, _runner(name, file), tags=("Segmentation",), sort_priority=priority)


PREPROCESSORS = (
    _preprocessor("oneformer_ade20k", "seg_ofade20k", "oneformer_ade20k", "shi-labs/oneformer_ade20k_swin_large", 100),
    _preprocessor("segmentation", "seg_ufade20k", "upernet", "openmmlab/upernet-convnext-small"),
)
