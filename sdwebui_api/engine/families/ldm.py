"""Parts shared by the families of the LDM layout: its UNet, its autoencoder and OpenAI's CLIP text model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sdwebui_api.engine.families.base import Assembly
from sdwebui_api.engine.ldm_names import (
    modern_diffusers_vae,
    unet_to_diffusers,
    vae_to_diffusers,
)
from sdwebui_api.engine.libraries import IMPORTING
from sdwebui_api.engine.model_config import ModelConfig
from sdwebui_api.engine.original_names import UNET_PREFIX
from sdwebui_api.engine.reading import Shapes, reading_structure, shapes_of
from sdwebui_api.engine.structure import (
    TextStructure,
    UNetStructure,
    VaeStructure,
    diffusers_vae_structure,
    text_structure,
    unet_structure,
    vae_structure,
)
from sdwebui_api.engine.upsampling import use_ldm_upsampling
from sdwebui_api.errors import UnusableModel

VAE_PREFIX = "first_stage_model."

# Attention heads of the text models we know, by (width, layers); elsewhere a head has 64 channels, as in CLIP.
_TEXT_HEADS = {(128, 4): 4}


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def middle_projection(shapes: Shapes) -> tuple[int, ...]:
    """The shape of the middle block's attention projection; () when there is none."""
    return shapes.get(f"{UNET_PREFIX}middle_block.1.proj_in.weight", ())


def select_unet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return without_prefix(tensors, UNET_PREFIX)


def select_vae(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a checkpoint, or of a VAE file with or without the prefix; training losses are left out."""
    found = without_prefix(tensors, VAE_PREFIX) or dict(tensors)
    return {
        name: tensor
        for name, tensor in found.items()
        if name.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
    }


def select_clip_text(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names from `embeddings.` on; older files lack the `text_model.` level."""
    found = without_prefix(tensors, "cond_stage_model.transformer.")
    bare = {name.removeprefix("text_model."): tensor for name, tensor in found.items()}
    return {name: tensor for name, tensor in bare.items() if not name.endswith("position_ids")}


@reading_structure("the UNet")
def assemble_unet(tensors: Mapping[str, Tensor], heads: Callable[[UNetStructure], int | Sequence[int]]) -> Assembly:
    """A diffusers UNet of the dimensions that the weights have, with `heads` attention heads (or one per level)."""
    with IMPORTING:
        from diffusers import UNet2DConditionModel
    structure = unet_structure(shapes_of(tensors))
    latents = structure.out_channels
    if structure.in_channels not in (latents, 2 * latents, 2 * latents + 1):
        raise UnusableModel(f"a UNet with {structure.in_channels} input channels is of no supported kind")
    with torch.device("meta"):
        module = UNet2DConditionModel(**_unet_arguments(structure, heads(structure)))
    use_ldm_upsampling(module)
    renamed = {unet_to_diffusers(name, structure.res_blocks): tensor for name, tensor in tensors.items()}
    return Assembly(module, {name: tensor for name, tensor in renamed.items() if name is not None})


def _unet_arguments(structure: UNetStructure, heads: int | Sequence[int]) -> dict[str, Any]:
    with_attention = [depth > 0 for depth in structure.depths]
    # diffusers takes the middle block's depth from the last level's, which has no use for it when it has no attention
    depths = [*(max(depth, 1) for depth in structure.depths[:-1]), structure.middle_depth]
    return {
        "in_channels": structure.in_channels,
        "out_channels": structure.out_channels,
        "block_out_channels": structure.channels,
        "layers_per_block": structure.res_blocks,
        "down_block_types": tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in with_attention),
        "up_block_types": tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(with_attention)),
        "transformer_layers_per_block": depths,
        "cross_attention_dim": structure.context_dim,
        # the constructor's word for the number of heads (diffusers issue 2011)
        "attention_head_dim": heads if isinstance(heads, int) else list(heads),
        "use_linear_projection": structure.linear_projection,
        # the label embedding takes what SDXL knows of its pictures; `families.labels` makes the whole of it
        "class_embed_type": "projection" if structure.label_width else None,
        "projection_class_embeddings_input_dim": structure.label_width or None,
    }


@reading_structure("the VAE")
def assemble_vae(tensors: Mapping[str, Tensor]) -> Assembly:
    """A diffusers autoencoder from LDM or diffusers names (prefix removed)."""
    with IMPORTING:
        from diffusers import AutoencoderKL
    if any(name.startswith("encoder.down_blocks.") for name in tensors):
        renamed: Mapping[str | None, Tensor] = {modern_diffusers_vae(name): t for name, t in tensors.items()}
        structure = diffusers_vae_structure({str(name): tuple(t.shape) for name, t in renamed.items()})
    else:
        structure = vae_structure(shapes_of(tensors))
        renamed = {vae_to_diffusers(name, len(structure.channels)): tensor for name, tensor in tensors.items()}
    with torch.device("meta"):
        module = AutoencoderKL(**_vae_arguments(structure))
    return Assembly(module, {name: _as_linear(name, tensor) for name, tensor in renamed.items() if name is not None})


def _vae_arguments(structure: VaeStructure) -> dict[str, Any]:
    levels = len(structure.channels)
    return {
        "in_channels": structure.image_channels,
        "out_channels": structure.image_channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": structure.channels,
        "layers_per_block": structure.res_blocks,
        "latent_channels": structure.latent_channels,
        "use_quant_conv": structure.quant_conv,
        "use_post_quant_conv": structure.quant_conv,
        "mid_block_add_attention": structure.middle_attention,
    }


def _as_linear(name: str, tensor: Tensor) -> Tensor:
    """LDM writes the middle attention's projections as 1x1 convolutions, diffusers as linear layers."""
    if ".attentions." in name and tensor.ndim == 4:
        return tensor[:, :, 0, 0]
    return tensor


@reading_structure("the text encoder")
def assemble_clip_text(tensors: Mapping[str, Tensor], config: ModelConfig) -> Assembly:
    """OpenAI's CLIP text model of any width and depth."""
    with IMPORTING:
        from transformers import CLIPTextConfig, CLIPTextModel
    structure = text_structure(shapes_of(tensors))
    clip = CLIPTextConfig(
        vocab_size=structure.vocabulary,
        hidden_size=structure.width,
        intermediate_size=structure.hidden,
        num_hidden_layers=structure.layers,
        num_attention_heads=config.text_heads or _text_heads(structure),
        max_position_embeddings=structure.positions,
        hidden_act="quick_gelu",
        projection_dim=structure.width,
    )
    with torch.device("meta"):
        module = CLIPTextModel(clip)
    module.embeddings.position_ids = torch.arange(structure.positions).expand((1, -1))
    return Assembly(module, tensors)


def _text_heads(structure: TextStructure) -> int:
    heads = _TEXT_HEADS.get((structure.width, structure.layers), max(structure.width // 64, 1))
    if structure.width % heads:
        raise UnusableModel(
            f"the text encoder is {structure.width} wide and its number of attention heads is unknown: "
            "put the checkpoint's .yaml and its CLIP config.json beside it"
        )
    return heads
