"""The small objects that A1111 hands to callbacks and hooks. Scripts change their attributes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class CFGDenoiserParams:
    """Before an evaluation. x, image_cond and sigma have a row per prompt part, then one per negative prompt."""

    x: Any
    image_cond: Any
    sigma: Any
    sampling_step: int
    total_sampling_steps: int
    text_cond: Any
    text_uncond: Any
    denoiser: Any = None


@dataclass
class CFGDenoisedParams:
    """After it, before guidance. Change `x` in place."""

    x: Any
    sampling_step: int
    total_sampling_steps: int
    inner_model: Any


@dataclass
class AfterCFGCallbackParams:
    x: Any
    sampling_step: int
    total_sampling_steps: int


@dataclass
class ImageSaveParams:
    image: Any
    p: Any
    filename: str
    pnginfo: dict[str, Any]


@dataclass
class ExtraNoiseParams:
    noise: Any
    x: Any
    xi: Any


@dataclass
class UiTrainTabParams:
    txt2img_preview_params: Any


@dataclass
class ImageGridLoopParams:
    imgs: Any
    cols: Any
    rows: Any


@dataclass
class BeforeTokenCounterParams:
    prompt: str
    steps: int
    styles: list[str]
    is_positive: bool = True


@dataclass
class PostprocessImageArgs:
    image: Any
    index: int = 0


@dataclass
class PostprocessBatchListArgs:
    images: Any


@dataclass
class PostProcessMaskOverlayArgs:
    index: int
    mask_for_overlay: Any
    overlay_image: Any


@dataclass
class PostSampleArgs:
    samples: Any


@dataclass
class MaskBlendArgs:
    """current * nmask + init_latent * mask, to be replaced in `blended_latent`. No denoiser: the final blend."""

    current_latent: Any
    nmask: Any
    init_latent: Any
    mask: Any
    blended_latent: Any
    denoiser: Any = None
    sigma: Any = None
    is_final_blend: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_final_blend = self.denoiser is None


@dataclass
class OnComponent:
    component: Any


@dataclass
class ExtraNetworkParams:
    """`<kind:a:b:name=c>`: items a and b by position, c by name."""

    items: list[str] = field(default_factory=list)
    positional: list[str] = field(init=False)
    named: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.positional = [item for item in self.items if "=" not in item]
        self.named = dict(item.split("=", 1) for item in self.items if "=" in item)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExtraNetworkParams) and self.items == other.items
