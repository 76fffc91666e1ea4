"""ControlNet (Zhang et al. 2023, arXiv 2302.05543): a copy of the UNet's way down that reads a hint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sdwebui_api.engine.devices import Device
from sdwebui_api.engine.families.base import Assembly
from sdwebui_api.engine.ldm_names import indices, unet_to_diffusers
from sdwebui_api.engine.libraries import IMPORTING
from sdwebui_api.engine.networks.control import Hint, Residuals
from sdwebui_api.engine.reading import Shapes, reading_structure, shapes_of
from sdwebui_api.engine.structure import UNetStructure, unet_structure
from sdwebui_api.errors import UnusableModel

LDM_PREFIX = "control_model."
_SOFTENING = 0.825
"""Each residual counts this much less than the next deeper one in the soft control modes."""


class ControlNet:
    """A `ControlNetwork`. pooled: residuals are averaged over the picture (the "shuffle" model)."""

    kind = "controlnet"

    def __init__(self, key: str, module: Any, dtype: torch.dtype, device: Device, *, pooled: bool = False) -> None:
        self.key = key
        self.count = len(module.controlnet_down_blocks) + 1
        self.forced_conditional = pooled
        self._module = module
        self._dtype = dtype
        self._device = device
        self._pooled = pooled

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self._module
        return module

    def soft_weights(self) -> tuple[float, ...]:
        return tuple(_SOFTENING ** (self.count - 1 - index) for index in range(self.count))

    def embed(self, hint: Tensor) -> Hint:
        """`[N, C, H/8, W/8]`: what the first convolution's output is increased by."""
        with self._device.running(self._module):
            return (self._module.controlnet_cond_embedding(hint.to(self._device.plan.device, self._dtype)),)

    def residuals(self, x: Tensor, t: Tensor, context: Tensor, hint: Hint, vector: Tensor | None = None) -> Residuals:
        module = self._module
        sample, embedding = self._entry(x, t, hint)
        if module.class_embedding is not None and vector is not None:
            embedding = embedding + module.class_embedding(vector)
        skips = [sample]
        for block in module.down_blocks:
            more = {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
            sample, found = block(hidden_states=sample, temb=embedding, **more)
            skips += found
        sample = module.mid_block(sample, embedding, encoder_hidden_states=context)
        outputs = [convolve(skip) for convolve, skip in zip(module.controlnet_down_blocks, skips, strict=True)]
        middle = module.controlnet_mid_block(sample)
        if self._pooled:
            outputs = [output.mean(dim=(2, 3), keepdim=True) for output in outputs]
            middle = middle.mean(dim=(2, 3), keepdim=True)
        return Residuals(tuple(outputs), middle)

    def _entry(self, x: Tensor, t: Tensor, hint: Hint) -> tuple[Tensor, Tensor]:
        """What the first level gets, and what says which timestep it is."""
        module = self._module
        return module.conv_in(x) + hint[0], module.time_embedding(module.time_proj(t).to(x.dtype))


@dataclass(frozen=True)
class _Structure:
    unet: UNetStructure
    hint_channels: int
    hint_widths: tuple[int, ...]
    """Of the convolutions that read the hint, one per resolution (SD1: 16, 32, 96, 256)."""


@reading_structure("the ControlNet")
def assemble_controlnet(tensors: Mapping[str, Tensor], heads: int | list[int]) -> Assembly:
    """A diffusers ControlNetModel of the dimensions that the weights have; original or diffusers names.

    `heads`: attention heads, those of the UNet it is for. Raises UnusableModel.
    """
    with IMPORTING:
        from diffusers import ControlNetModel
    named = _in_diffusers_names(tensors)
    with torch.device("meta"):
        module = ControlNetModel(**controlnet_arguments(shapes_of(named), heads))
    return Assembly(module, named)


def _in_diffusers_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if any(name.startswith("controlnet_cond_embedding.") for name in tensors):
        return with_label_embedding(tensors)
    bare = {name.removeprefix(LDM_PREFIX): tensor for name, tensor in tensors.items()}
    structure = unet_structure({**shapes_of(bare), "out.2.weight": (4,)})  # a ControlNet has no way up
    renamed = {to_diffusers(name, structure.res_blocks): tensor for name, tensor in bare.items()}
    return {name: tensor for name, tensor in renamed.items() if name is not None}


def with_label_embedding(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' names, but SDXL's sizes and pooled text come in by the label embedding, as in our UNets."""
    return {re.sub(r"^add_embedding\.", "class_embedding.", name): tensor for name, tensor in tensors.items()}


def to_diffusers(name: str, res_blocks: int) -> str | None:
    """The diffusers name of a ControlNet's tensor of the original layout (without prefix); None when it has none."""
    if found := re.fullmatch(r"zero_convs\.(\d+)\.0\.(\w+)", name):
        return f"controlnet_down_blocks.{found[1]}.{found[2]}"
    if found := re.fullmatch(r"middle_block_out\.0\.(\w+)", name):
        return f"controlnet_mid_block.{found[1]}"
    if found := re.fullmatch(r"input_hint_block\.(\d+)\.(\w+)", name):
        # 0 the first convolution, 14 the last, activations in between
        place = {0: "conv_in", 14: "conv_out"}.get(int(found[1]), f"blocks.{int(found[1]) // 2 - 1}")
        return f"controlnet_cond_embedding.{place}.{found[2]}"
    return unet_to_diffusers(name, res_blocks)


def _structure(shapes: Shapes) -> _Structure:
    """Of tensors with diffusers names."""
    levels = indices(shapes, "down_blocks.")
    projection = next((n for n in shapes if n.endswith("transformer_blocks.0.attn2.to_k.weight")), None)
    if projection is None or not levels:
        raise UnusableModel("the ControlNet has no levels with cross-attention")
    widths = [shapes[f"controlnet_cond_embedding.blocks.{index}.weight"][0] for index in (1, 3, 5)]
    entry = shapes["controlnet_cond_embedding.conv_in.weight"]
    if entry[1] != 3:
        raise UnusableModel(f"the ControlNet reads hints of {entry[1]} channels: only RGB ones are made here")
    unet = UNetStructure(
        in_channels=shapes["conv_in.weight"][1],
        out_channels=4,
        channels=tuple(shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0] for level in levels),
        res_blocks=len(indices(shapes, "down_blocks.0.resnets.")),
        depths=tuple(len(indices(shapes, f"down_blocks.{level}.attentions.0.transformer_blocks.")) for level in levels),
        middle_depth=len(indices(shapes, "mid_block.attentions.0.transformer_blocks.")),
        context_dim=shapes[projection][1],
        linear_projection=len(shapes["mid_block.attentions.0.proj_in.weight"]) == 2,
        label_width=shapes.get("class_embedding.linear_1.weight", (0, 0))[1],
    )
    return _Structure(unet, entry[1], (entry[0], *widths))


def controlnet_arguments(shapes: Shapes, heads: int | list[int]) -> dict[str, Any]:
    """Of diffusers' constructors, for tensors of these shapes and diffusers' names. Raises UnusableModel."""
    structure = _structure(shapes)
    unet = structure.unet
    return {
        "in_channels": unet.in_channels,
        "conditioning_channels": structure.hint_channels,
        "block_out_channels": unet.channels,
        "layers_per_block": unet.res_blocks,
        "down_block_types": tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in unet.depths),
        # diffusers takes the middle block's depth from the last level's
        "transformer_layers_per_block": [*(max(depth, 1) for depth in unet.depths[:-1]), unet.middle_depth],
        "cross_attention_dim": unet.context_dim,
        # the constructor's word for the number of heads (diffusers issue 2011)
        "attention_head_dim": heads,
        "use_linear_projection": unet.linear_projection,
        "conditioning_embedding_out_channels": structure.hint_widths,
        "class_embed_type": "projection" if unet.label_width else None,
        "projection_class_embeddings_input_dim": unet.label_width or None,
    }


def check_fits(module: Any, unet: Any) -> None:
    """Raises UnusableModel when `module` was made for UNets of other dimensions."""
    ours, theirs = module.config, unet.config
    if ours.cross_attention_dim != theirs.cross_attention_dim:
        raise UnusableModel(
            f"a ControlNet for text encodings {ours.cross_attention_dim} wide does not fit this checkpoint, "
            f"whose are {theirs.cross_attention_dim} wide: it belongs to another family of models"
        )
    if ours.projection_class_embeddings_input_dim != theirs.projection_class_embeddings_input_dim:
        raise UnusableModel(
            "this ControlNet and this checkpoint are not told the same of their pictures (SDXL's base, its refiner and "
            "the families without such an input differ): it belongs to another family of models"
        )
    if tuple(ours.block_out_channels) != tuple(theirs.block_out_channels) or (
        ours.layers_per_block != theirs.layers_per_block
    ):
        raise UnusableModel(
            f"a ControlNet with {list(ours.block_out_channels)} channels per level does not fit this checkpoint, "
            f"which has {list(theirs.block_out_channels)}"
        )
