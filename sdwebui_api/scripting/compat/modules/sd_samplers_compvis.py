"""`modules.sd_samplers_compvis`: A1111 gave these samplers up in 1.6; extensions still inherit from the class."""

from __future__ import annotations

from typing import Any

from sdwebui_api.scripting.compat.world import NotOffered


class VanillaStableDiffusionSampler:
    """Can be inherited from, not made."""

    def __init__(self, constructor: Any, sd_model: Any) -> None:
        raise NotOffered("VanillaStableDiffusionSampler is not offered: A1111 has other samplers since 1.6")
