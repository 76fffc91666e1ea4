"""LoRA on the UNet: low-rank additions to its layers, and their file in kohya's form.

Layers are named after the original modules (`lora_unet_input_blocks_3_1_…`). Kohya's more common diffusers-like names
cannot be used: A1111 translates them for UNets of two residual blocks per level, and the embedded model has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.ldm_layout import unet_key
from training.models import Architecture

_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2")


class LowRank(nn.Module):
    """up(down(x)) of a linear layer or convolution; zero until trained."""

    def __init__(self, layer: nn.Module, rank: int) -> None:
        super().__init__()
        self.down: nn.Module
        self.up: nn.Module
        if isinstance(layer, nn.Conv2d):
            size, stride, padding = layer.kernel_size, layer.stride, layer.padding
            self.down = nn.Conv2d(layer.in_channels, rank, size, stride, padding, bias=False)  # type: ignore[arg-type]
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        elif isinstance(layer, nn.Linear):
            self.down = nn.Linear(layer.in_features, rank, bias=False)
            self.up = nn.Linear(rank, layer.out_features, bias=False)
        else:
            raise TypeError(f"no LoRA for {type(layer).__name__}")
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


class UNetLora(nn.Module):
    """Low-rank additions to the attention, feed-forward and residual layers of `unet`, added by forward hooks."""

    def __init__(self, unet: Any, rank: int) -> None:
        super().__init__()
        self.rank, self.weight = rank, 1.0
        layers = {name: module for name, module in unet.named_modules() if name.endswith(_TARGETS)}
        self.names = list(layers)
        self.additions = nn.ModuleList(LowRank(layer, rank) for layer in layers.values())
        pairs = zip(layers.values(), self.additions, strict=True)
        self._hooks = [layer.register_forward_hook(self._hook(addition)) for layer, addition in pairs]

    def _hook(self, addition: nn.Module) -> Any:
        return lambda layer, inputs, output: output + self.weight * addition(inputs[0]) if self.weight else output

    def detach(self) -> None:
        """Leave the UNet as it was."""
        for hook in self._hooks:
            hook.remove()


def lora_to_kohya(lora: UNetLora, architecture: Architecture) -> dict[str, Tensor]:
    """Tensors under kohya's names; alpha is the rank, so that weight 1 means what was trained."""
    attending = set(range(len(architecture.unet_multipliers) - 1))
    state: dict[str, Tensor] = {}
    for name, addition in zip(lora.names, lora.additions, strict=True):
        key = unet_key(f"{name}.weight", architecture.unet_blocks, attending).removesuffix(".weight")
        layer = f"lora_unet_{key.replace('.', '_')}"
        state[f"{layer}.lora_down.weight"] = addition.down.weight  # type: ignore[union-attr, assignment]
        state[f"{layer}.lora_up.weight"] = addition.up.weight  # type: ignore[union-attr, assignment]
        state[f"{layer}.alpha"] = torch.tensor(float(lora.rank))
    return state


def lora_from_kohya(state: Mapping[str, Tensor], unet: Any, architecture: Architecture) -> UNetLora:
    """A float32 LoRA, attached to `unet`, with the weights of `state`. Raises KeyError for a missing one."""
    rank = next(int(weight) for key, weight in state.items() if key.endswith(".alpha"))
    lora = UNetLora(unet, rank)
    for key, own in lora_to_kohya(lora, architecture).items():
        own.data.copy_(state[key])
    return lora
