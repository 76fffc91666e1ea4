"""The upscalers by name: the rows of GET /upscalers, and the latent upscale modes of the hires pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class UpscalerRow:
    """One row of GET /upscalers. The fields are A1111's; they are null for upscalers that need no weights."""

    name: str
    model_name: str | None = None
    model_path: str | None = None
    model_url: str | None = None
    scale: float = 4.0


@dataclass(frozen=True)
class LatentUpscaleMode:
    """How torch's `interpolate` enlarges a latent."""

    mode: Literal["bilinear", "bicubic", "nearest", "nearest-exact"]
    antialias: bool = False


UPSCALERS: tuple[UpscalerRow, ...] = (UpscalerRow("None"), UpscalerRow("Lanczos"), UpscalerRow("Nearest"))

LATENT_UPSCALE_MODES: Mapping[str, LatentUpscaleMode] = {
    "Latent": LatentUpscaleMode("bilinear"),
    "Latent (antialiased)": LatentUpscaleMode("bilinear", antialias=True),
    "Latent (bicubic)": LatentUpscaleMode("bicubic"),
    "Latent (bicubic antialiased)": LatentUpscaleMode("bicubic", antialias=True),
    "Latent (nearest)": LatentUpscaleMode("nearest"),
    "Latent (nearest-exact)": LatentUpscaleMode("nearest-exact"),
}
