"""Stable Diffusion 2: OpenCLIP-H as text encoder, 64 channels per attention head, linear attention projections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sdwebui_api.engine.families import ldm
from sdwebui_api.engine.families.base import Assembly, Family, LatentFormat, NoiseSchedule, TextTower
from sdwebui_api.engine.families.open_clip import assemble_open_clip
from sdwebui_api.engine.ldm_names import indices
from sdwebui_api.engine.model_config import ModelConfig
from sdwebui_api.engine.reading import Shapes

HEAD_CHANNELS = 64
_BLOCKS = "transformer.resblocks."
_H_WIDTH, _H_LAYERS = 1024, 24


def _recognise(shapes: Shapes) -> bool:
    """Linear attention projections (SD1 has convolutions) and no label embedding (SDXL, unCLIP have one)."""
    return len(ldm.middle_projection(shapes)) == 2 and not any("label_emb" in name for name in shapes)


def _assemble_unet(tensors: Mapping[str, Tensor], config: ModelConfig) -> Assembly:
    return ldm.assemble_unet(
        tensors, lambda structure: config.unet_heads or [max(width // HEAD_CHANNELS, 1) for width in structure.channels]
    )


def _select_text(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's names without the last layer, which nothing uses; or transformers', where it is left out already.

    Files made of diffusers models have the former names without that layer.
    """
    found = ldm.without_prefix(tensors, "cond_stage_model.model.")
    if not found:
        names = ldm.without_prefix(tensors, "cond_stage_model.transformer.")
        return {name: tensor for name, tensor in names.items() if not name.endswith("position_ids")}
    layers = indices(found, _BLOCKS)
    shortened = found.get("ln_final.weight", torch.empty(0)).numel() == _H_WIDTH and len(layers) < _H_LAYERS
    if shortened or not layers:
        return found
    return {name: tensor for name, tensor in found.items() if not name.startswith(f"{_BLOCKS}{layers[-1]}.")}


def _assemble_text(tensors: Mapping[str, Tensor], config: ModelConfig) -> Assembly:
    return assemble_open_clip(tensors, projection=False)


def _probe(unet: Any) -> str:
    """What a UNet of unknown make predicts, by A1111's test (`sd_models_config.py`).

    At the last timestep a constant picture of 0.5 is all noise to the model: one that predicts noise gives it back,
    one that predicts velocity gives the negative of a picture, more than 1 below on average.
    Inpainting models (more than 4 input channels) all predict noise.
    """
    config = unet.module.config
    if config.in_channels != config.out_channels:
        return "epsilon"
    x = torch.full((1, config.in_channels, 8, 8), 0.5)
    context = torch.full((1, 2, config.cross_attention_dim), 0.5)
    output = unet.predict(x, torch.tensor([999.0]), context)
    return "v_prediction" if float((output - 0.5).mean()) < -1.0 else "epsilon"


SD2 = Family(
    name="sd2",
    title="Stable Diffusion 2",
    latent=LatentFormat(channels=4, pixels=8, factor=0.18215),
    prediction_type="epsilon",
    noise_schedule=NoiseSchedule(linear_start=0.00085, linear_end=0.0120, timesteps=1000),
    recognise=_recognise,
    select_unet=ldm.select_unet,
    select_text=_select_text,
    select_vae=ldm.select_vae,
    assemble_unet=_assemble_unet,
    assemble_text=_assemble_text,
    assemble_vae=ldm.assemble_vae,
    towers=(TextTower(layer=1, pad_id=0),),
    probe=_probe,
)
