"""Stable Diffusion 1: latents of 4 channels, a UNet with 8 heads per attention, OpenAI's CLIP as text encoder."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sdwebui_api.engine.families import ldm
from sdwebui_api.engine.families.base import Assembly, Family, LatentFormat, NoiseSchedule
from sdwebui_api.engine.model_config import ModelConfig
from sdwebui_api.engine.reading import Shapes

_HEADS = 8


def _recognise(shapes: Shapes) -> bool:
    """Convolutional attention projections (SD2 and SDXL have linear ones) and no label embedding (SDXL, unCLIP)."""
    return len(ldm.middle_projection(shapes)) == 4 and not any("label_emb" in name for name in shapes)


def _assemble_unet(tensors: Mapping[str, Tensor], config: ModelConfig) -> Assembly:
    return ldm.assemble_unet(tensors, heads=lambda structure: config.unet_heads or _HEADS)


SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1",
    latent=LatentFormat(channels=4, pixels=8, factor=0.18215),
    prediction_type="epsilon",
    noise_schedule=NoiseSchedule(linear_start=0.00085, linear_end=0.0120, timesteps=1000),
    recognise=_recognise,
    select_unet=ldm.select_unet,
    select_text=ldm.select_clip_text,
    select_vae=ldm.select_vae,
    assemble_unet=_assemble_unet,
    assemble_text=ldm.assemble_clip_text,
    assemble_vae=ldm.assemble_vae,
)
