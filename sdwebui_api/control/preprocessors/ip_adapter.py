"""IP-Adapter: the control model's own image encoder looks at the picture; nothing is detected in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorResult
from sdwebui_api.control.preprocessors.sizes import as_rgb

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import Picture


def picture(image: Picture, **_: Any) -> PreprocessorResult:
    return PreprocessorResult(as_rgb(image))


PREPROCESSORS = (
    Preprocessor(
        "ip-adapter-auto", "ip-adapter-auto", picture, tags=("IP-Adapter",), returns_image=False, sort_priority=1000
    ),
    Preprocessor(
        "ip-adapter_clip_sd15",
        "ip-adapter_clip_h",
        picture,
        tags=("IP-Adapter",),
        returns_image=False,
        sort_priority=100,
    ),
)
