"""IP-Adapters and style adapters: the control model's own image encoder looks at the picture; nothing is detected.

Which encoder that is, or whether it is a face that counts, the control model's file tells; the names that say it are
all the same here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorResult
from sdwebui_api.control.preprocessors.sizes import as_rgb

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import Picture


def picture(image: Picture, **_: Any) -> PreprocessorResult:
    return PreprocessorResult(as_rgb(image))


def _preprocessor(name: str, label: str, tag: str = "IP-Adapter", priority: int = 0) -> Preprocessor:
    return Preprocessor(name, label, picture, tags=(tag,), returns_image=False, sort_priority=priority)


PREPROCESSORS = (
    _preprocessor("ip-adapter-auto", "ip-adapter-auto", priority=1000),
    _preprocessor("ip-adapter_clip_sd15", "ip-adapter_clip_h", priority=100),
    _preprocessor("ip-adapter_clip_sdxl", "ip-adapter_clip_g"),
    _preprocessor("ip-adapter_clip_sdxl_plus_vith", "ip-adapter_clip_sdxl_plus_vith"),
    _preprocessor("ip-adapter_face_id_plus", "ip-adapter_face_id_plus"),
    _preprocessor("ip-adapter_face_id", "ip-adapter_face_id"),
    _preprocessor("instant_id_face_embedding", "instant_id_face_embedding", "Instant-ID"),
    _preprocessor("clip_vision", "t2ia_style_clipvision", "T2I-Adapter"),
)

FOR_STYLES = "clip_vision"
"""The preprocessor of T2I style adapters."""
