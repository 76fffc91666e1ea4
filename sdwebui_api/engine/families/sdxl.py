"""Stable Diffusion XL (Podell et al. 2023): the base with two text models, and the refiner with the second one alone.

Files in the layout of Stability's generative-models: `conditioner.embedders.0.transformer.…` is OpenAI's CLIP-L,
`conditioner.embedders.1.model.…` open_clip's bigG; a refiner has the latter as embedder 0. Both have a label embedding,
which takes the pooled text and the sizes of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from sdwebui_api.engine.families import ldm
from sdwebui_api.engine.families.base import Assembly, Family, LabelFormat, LatentFormat, NoiseSchedule, TextTower
from sdwebui_api.engine.families.open_clip import assemble_open_clip
from sdwebui_api.engine.ldm_names import indices
from sdwebui_api.engine.model_config import ModelConfig
from sdwebui_api.engine.original_names import UNET_PREFIX
from sdwebui_api.engine.reading import Shapes
from sdwebui_api.engine.structure import UNetStructure
from sdwebui_api.errors import UnusableModel

_HEAD = 64
"""Channels per attention head in the UNet."""
_EMBEDDERS = "conditioner.embedders."
CLIP_L, CLIP_G = "clip_l", "clip_g"

_SIZES = ("height", "width", "crop_top", "crop_left")


def _has_label(shapes: Shapes) -> bool:
    """A label embedding, and no text encoder where SD1, SD2 and unCLIP have theirs."""
    return f"{UNET_PREFIX}label_emb.0.0.weight" in shapes and not any(
        name.startswith("cond_stage_model.") for name in shapes
    )


def _attends_at_the_bottom(shapes: Shapes) -> bool:
    """Whether the coarsest level has attention: the base's has, the refiner's (like SD1's) has not."""
    last = max(indices(shapes, f"{UNET_PREFIX}input_blocks."), default=0)
    return f"{UNET_PREFIX}input_blocks.{last}.1.norm.weight" in shapes


def _recognise_base(shapes: Shapes) -> bool:
    return _has_label(shapes) and _attends_at_the_bottom(shapes)


def _recognise_refiner(shapes: Shapes) -> bool:
    return _has_label(shapes) and not _attends_at_the_bottom(shapes)


def _assemble_unet(tensors: Mapping[str, Tensor], config: ModelConfig) -> Assembly:
    def heads(structure: UNetStructure) -> list[int]:
        return [max(channels // _HEAD, 1) for channels in structure.channels]

    return ldm.assemble_unet(tensors, heads)


def _select_text(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names from the embedder's number on."""
    found = ldm.without_prefix(tensors, _EMBEDDERS)
    return {name: tensor for name, tensor in found.items() if not name.endswith("position_ids")}


def _assemble_text(tensors: Mapping[str, Tensor], config: ModelConfig) -> Assembly:
    clip = ldm.without_prefix(tensors, "0.transformer.")
    if not clip:
        raise _lacking("CLIP-L", f"{_EMBEDDERS}0.transformer.*")
    bare = {name.removeprefix("text_model."): tensor for name, tensor in clip.items()}
    return _together({CLIP_L: ldm.assemble_clip_text(bare, config), CLIP_G: _assemble_clip_g(tensors, 1)})


def _assemble_refiner_text(tensors: Mapping[str, Tensor], config: ModelConfig) -> Assembly:
    return _together({CLIP_G: _assemble_clip_g(tensors, 0)})


def _assemble_clip_g(tensors: Mapping[str, Tensor], number: int) -> Assembly:
    own = ldm.without_prefix(tensors, f"{number}.model.") or ldm.without_prefix(tensors, f"{number}.transformer.")
    if not own:
        raise _lacking("OpenCLIP-bigG", f"{_EMBEDDERS}{number}.model.*")
    return assemble_open_clip(own, projection=True)


def _lacking(name: str, tensors: str) -> UnusableModel:
    return UnusableModel(f"the text model {name} is missing ({tensors}); use the complete checkpoint")


def _together(parts: Mapping[str, Assembly]) -> Assembly:
    """One module of several, so that they are loaded, moved and changed by LoRAs together."""
    tensors = {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.tensors.items()}
    return Assembly(nn.ModuleDict({name: part.module for name, part in parts.items()}), tensors)


_TOWER_G = TextTower(CLIP_G, layer=2, final_norm=False, pad_id=0, pooled=True)

SDXL = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    latent=LatentFormat(channels=4, pixels=8, factor=0.13025),
    prediction_type="epsilon",
    noise_schedule=NoiseSchedule(linear_start=0.00085, linear_end=0.0120, timesteps=1000),
    recognise=_recognise_base,
    select_unet=ldm.select_unet,
    select_text=_select_text,
    select_vae=ldm.select_vae,
    assemble_unet=_assemble_unet,
    assemble_text=_assemble_text,
    assemble_vae=ldm.assemble_vae,
    towers=(TextTower(CLIP_L, final_norm=False), _TOWER_G),
    label=LabelFormat((*_SIZES, "height", "width")),
    own_clip_skip=2,
    align_your_steps="sdxl",
    tiny_vae="taesdxl",
)

SDXL_REFINER = replace(
    SDXL,
    name="sdxl_refiner",
    title="Stable Diffusion XL refiner",
    recognise=_recognise_refiner,
    assemble_text=_assemble_refiner_text,
    towers=(_TOWER_G,),
    label=LabelFormat((*_SIZES, "aesthetic_score")),
)
