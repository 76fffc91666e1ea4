"""ControlNets stored as changes of the UNet that they are for: ControlLoRA (Stability AI) and full differences.

Both are made whole with the weights of the checkpoint at hand, and are ControlNets from then on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from sdwebui_api.engine.networks.controlnet import LDM_PREFIX, to_diffusers
from sdwebui_api.engine.packed import dense
from sdwebui_api.errors import UnusableModel

LORA_MARK, DIFFERENCE_MARK = "lora_controlnet", "difference"
_SHARED = ("conv_in.", "time_embedding.", "class_embedding.", "down_blocks.", "mid_block.")
"""Parts that a ControlNet has in common with the UNet."""
_CHANNELS = 4


def is_change(names: Collection[str]) -> bool:
    """Whether a file with tensors of these names needs the UNet's weights."""
    return LORA_MARK in names or DIFFERENCE_MARK in names


def completed(tensors: Mapping[str, Tensor], unet: Any) -> dict[str, Tensor]:
    """The whole ControlNet in diffusers names, for the diffusers UNet `unet`. Raises UnusableModel for a misfit."""
    base = {name: dense(tensor) for name, tensor in unet.state_dict().items() if name.startswith(_SHARED)}
    base["conv_in.weight"] = base["conv_in.weight"][:, :_CHANNELS]  # inpainting models read more
    changes = _Changes(tensors, unet.config.layers_per_block)
    if LORA_MARK in tensors:
        return base | changes.plain | {name: _added(base, name, *change) for name, change in changes.low_rank.items()}
    both = {name: _sum(base[name], tensor, name) for name, tensor in changes.plain.items() if name in base}
    return changes.plain | both


class _Changes:
    """The file's tensors by diffusers names: whole ones, and pairs (up, down) whose product is added to a weight."""

    def __init__(self, tensors: Mapping[str, Tensor], res_blocks: int) -> None:
        bare = {name.removeprefix(LDM_PREFIX): tensor for name, tensor in tensors.items()}
        self.plain: dict[str, Tensor] = {}
        self.low_rank: dict[str, tuple[Tensor, Tensor]] = {}
        for name, tensor in bare.items():
            if name.endswith(".up") and f"{name[:-3]}.down" in bare:
                target = to_diffusers(f"{name[:-3]}.weight", res_blocks)
                if target is not None:
                    self.low_rank[target] = tensor, bare[f"{name[:-3]}.down"]
            elif not name.endswith(".down") and (target := to_diffusers(name, res_blocks)) is not None:
                self.plain[target] = tensor


def _added(base: Mapping[str, Tensor], name: str, up: Tensor, down: Tensor) -> Tensor:
    if name not in base:
        raise UnusableModel(f"the checkpoint has no {name!r} that this ControlLoRA could change")
    weight = base[name]
    change = up.flatten(1).float() @ down.flatten(1).float()
    if change.numel() != weight.numel():
        raise UnusableModel(f"a ControlLoRA for other dimensions than this checkpoint's (at {name!r})")
    return _sum(weight, change.reshape(weight.shape), name)


def _sum(weight: Tensor, change: Tensor, name: str) -> Tensor:
    if weight.shape != change.shape:
        raise UnusableModel(f"made for other dimensions than this checkpoint's (at {name!r})")
    return weight.float().cpu() + change.float().to(torch.device("cpu"))
