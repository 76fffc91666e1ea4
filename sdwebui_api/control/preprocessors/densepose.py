"""Bodies painted part by part, by DensePose (`engine/annotators/densepose.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorResult, RunPreprocessor
from sdwebui_api.control.preprocessors.sizes import detect_at
from sdwebui_api.control.weights import WeightFile, network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdwebui_api.control.preprocessor import Picture, PreprocessorContext

FILE = WeightFile("densepose", "densepose_r50_fpn_dl.torchscript", "LayerNorm/DensePose-TorchScript-with-hint-image")

_STEP = 255.0 / 24
_VIRIDIS_ZERO = (68, 1, 84)


def painted(parts: NDArray[np.uint8], *, parula: bool) -> Picture:
    """`[H, W]`, 0 for the background → uint8 `[H, W, 3]`, after the ControlNet extension 1.1.455
    (`annotator/densepose`), which fills zeros of Viridis's channels wherever they are."""
    colours = cv2.COLORMAP_PARULA if parula else cv2.COLORMAP_VIRIDIS
    levels = (parts.astype(np.float32) * _STEP).clip(0, 255).astype(np.uint8)
    found = np.ascontiguousarray(cv2.applyColorMap(levels, colours)[:, :, ::-1])
    found[parts == 0] = 0
    if not parula:
        for channel, value in enumerate(_VIRIDIS_ZERO):
            found[:, :, channel][found[:, :, channel] == 0] = value
    return np.asarray(found, dtype=np.uint8)


def _runner(name: str, *, parula: bool) -> RunPreprocessor:
    def run(image: Picture, *, resolution: int, context: PreprocessorContext, **_: Any) -> PreprocessorResult:
        path = FILE.find(context, name)
        from sdwebui_api.engine.annotators.densepose import DensePoseNetwork, load_densepose

        with network(context, path, load_densepose, DensePoseNetwork) as found:
            return PreprocessorResult(
                detect_at(image, resolution, lambda rgb: painted(found.parts(rgb), parula=parula))
            )

    return run


PREPROCESSORS = (
    Preprocessor(
        "densepose_parula",
        "densepose_parula (black bg & blue torso)",
        _runner("densepose_parula", parula=True),
        tags=("OpenPose",),
    ),
    Preprocessor(
        "densepose",
        "densepose (pruple bg & purple torso)",
        _runner("densepose", parula=False),
        tags=("OpenPose",),
    ),
)
