"""Reference: the picture goes through the UNet beside the one that is made; nothing is detected in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorResult, Slider
from sdwebui_api.control.preprocessors.sizes import as_rgb

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import Picture

FIDELITY = Slider("Style Fidelity (only for Balanced mode)", 0.5, 0.0, 1.0, 0.01)


def reference(image: Picture, **_: Any) -> PreprocessorResult:
    return PreprocessorResult(as_rgb(image))


def _preprocessor(name: str, priority: int = 0) -> Preprocessor:
    return Preprocessor(
        name,
        name,
        reference,
        sliders=(FIDELITY,),
        tags=("Reference",),
        model_free=True,
        sort_priority=priority,
    )


PREPROCESSORS = (
    _preprocessor("reference_only", 100),
    _preprocessor("reference_adain"),
    _preprocessor("reference_adain+attn"),
)
