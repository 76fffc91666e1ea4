"""Which of a request's options decide how its weights are held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sdwebui_api.config.options import Options
    from sdwebui_api.engine.weights import WeightsCache

TAESD = "TAESD"
SDXL = "sdxl"
"""Starts the names of its families."""


@dataclass(frozen=True)
class LoadSettings:
    """The defaults are A1111's."""

    float8: str = "Disable"
    """`fp8_storage`: Disable, "Enable for SDXL", Enable."""
    keep_half: bool = False
    """`cache_fp16_weight`: LoRAs are merged into float16 weights that stay in RAM beside the float8 ones."""
    vae_fallback: torch.dtype | None = torch.float32
    """What a VAE that yields not-a-number goes on in; None: that is an error."""
    checkpoints: int | None = None
    """`sd_checkpoints_limit`: how many may be in memory. 1, A1111's default, stands for as many as fit."""
    one_on_gpu: bool = False
    """`sd_checkpoints_keep_in_cpu`, where their number is limited: the others rest in RAM."""
    tiny_encoder: bool = False
    """`sd_vae_encode_method` is TAESD: start pictures do not go through the VAE."""
    tiny_decoder: bool = False
    """`sd_vae_decode_method` is TAESD: results do not go through the VAE."""
    tiny_previews: bool = False
    """`show_progress_type` is TAESD."""

    @classmethod
    def of(cls, options: Options) -> LoadSettings:
        limit = options.sd_checkpoints_limit
        return cls(
            options.fp8_storage,
            options.cache_fp16_weight,
            _fallback(options),
            limit if limit > 1 else None,
            options.sd_checkpoints_keep_in_cpu,
            options.sd_vae_encode_method == TAESD,
            options.sd_vae_decode_method == TAESD,
            options.show_progress_type == TAESD,
        )

    def limit(self, weights: WeightsCache) -> None:
        """Send checkpoints beyond the limit away, as far as nobody uses them."""
        if self.checkpoints is None:
            return
        for kind in ("unet:", "text:"):
            weights.keep_newest(kind, self.checkpoints)
            if self.one_on_gpu:
                weights.rest_but_newest(kind, 1)

    def in_float8(self, family: str) -> bool:
        return self.float8 == "Enable" or (self.float8 == "Enable for SDXL" and family.startswith(SDXL))

    def storage_word(self, family: str) -> str:
        """What tells the weights from others of the same file and precision; "" for plain ones."""
        return "" if not self.in_float8(family) else ":float8+half" if self.keep_half else ":float8"


DEFAULTS = LoadSettings()


def _fallback(options: Options) -> torch.dtype | None:
    """A1111 processing.py, `decode_latent_batch`: bfloat16 is asked for first."""
    if options.auto_vae_precision_bfloat16:
        return torch.bfloat16
    return torch.float32 if options.auto_vae_precision else None
