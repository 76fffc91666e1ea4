"""Inpainting: the picture with its mask as the fourth channel, which the control network reads as "unknown"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorResult, RunPreprocessor

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import Picture


def inpaint(image: Picture, *, mask: Picture | None, **_: Any) -> PreprocessorResult:
    """`image` and `mask` (255: to be repainted) as `[H, W, 4]`. What is kept, and how, `control/finishing.py` knows."""
    if image.shape[2] == 4 or mask is None:
        return PreprocessorResult(image)
    return PreprocessorResult(np.dstack([image, mask]))


def inpaint_preprocessor(name: str, label: str, run: RunPreprocessor, priority: int = 0) -> Preprocessor:
    return Preprocessor(
        name,
        label,
        run,
        resolution=None,
        tags=("Inpaint",),
        accepts_mask=True,
        requires_mask=True,
        sort_priority=priority,
    )


PREPROCESSORS = (
    inpaint_preprocessor("inpaint_only", "inpaint_only", inpaint, 100),
    inpaint_preprocessor("inpaint", "inpaint_global_harmonious", inpaint),
)
