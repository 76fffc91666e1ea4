"""Which share of the tokens a pass merges; A1111 `processing.py`, the two `get_token_merging_ratio`."""

from __future__ import annotations

from sdwebui_api.generation.request import GenerationRequest


def token_merging_ratio(request: GenerationRequest, *, hires_pass: bool = False) -> float:
    """In [0, 0.9]. Hires pass and img2img have options of their own, which count where they are not 0."""
    options = request.options
    plain = float(options.token_merging_ratio)
    if hires_pass:
        return float(options.token_merging_ratio_hr) or plain
    if request.init is None:
        return plain
    asked_for = plain if "token_merging_ratio" in request.override_settings else 0.0
    return asked_for or float(options.token_merging_ratio_img2img) or plain
