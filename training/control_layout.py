"""The original single-file key layout of ControlNets (`control_model.*`), to and from diffusers' ControlNetModel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from training.ldm_layout import unet_key
from training.models import Architecture, build_unet

PREFIX = "control_model."
_HINT_ENDS = {"conv_in": 0, "conv_out": 14}


def build_control(unet: Any) -> Any:
    """A ControlNet for `unet`: its encoder copied, a new hint encoder, zero convolutions."""
    from diffusers import ControlNetModel

    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 96, 256))


def control_key(name: str, blocks: int) -> str:
    """The original name of a diffusers ControlNet weight; `blocks` is the original's num_res_blocks."""
    if match := re.fullmatch(r"controlnet_cond_embedding\.(conv_in|conv_out)\.(\w+)", name):
        return f"{PREFIX}input_hint_block.{_HINT_ENDS[match[1]]}.{match[2]}"
    if match := re.fullmatch(r"controlnet_cond_embedding\.blocks\.(\d+)\.(\w+)", name):
        return f"{PREFIX}input_hint_block.{2 * int(match[1]) + 2}.{match[2]}"
    if match := re.fullmatch(r"controlnet_down_blocks\.(\d+)\.(\w+)", name):
        return f"{PREFIX}zero_convs.{match[1]}.0.{match[2]}"
    if match := re.fullmatch(r"controlnet_mid_block\.(\w+)", name):
        return f"{PREFIX}middle_block_out.0.{match[1]}"
    return PREFIX + unet_key(name, blocks, set())


def control_to_ldm(control: Any, architecture: Architecture) -> dict[str, Tensor]:
    return {control_key(name, architecture.unet_blocks): w for name, w in control.state_dict().items()}


def control_from_ldm(state: Mapping[str, Tensor], architecture: Architecture) -> Any:
    """A float32 ControlNet with the weights of `state`. Raises KeyError for a missing one."""
    control = build_control(build_unet(architecture))
    own = control.state_dict()
    control.load_state_dict({name: state[control_key(name, architecture.unet_blocks)].float() for name in own})
    return control.eval()


def read_control(path: Path, architecture: Architecture) -> Any:
    from safetensors.torch import load_file

    return control_from_ldm(load_file(path), architecture)
