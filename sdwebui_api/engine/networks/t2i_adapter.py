"""T2I-Adapter (Mou et al. 2023, arXiv 2302.08453): a small network that reads a hint once, whatever the timestep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sdwebui_api.engine.devices import Device
from sdwebui_api.engine.families.base import Assembly
from sdwebui_api.engine.ldm_names import indices
from sdwebui_api.engine.networks.control import Hint, Residuals
from sdwebui_api.engine.reading import Shapes, reading_structure, shapes_of
from sdwebui_api.errors import UnusableModel

_UNSHUFFLE = 8
"""Pixels per side that become channels, as many as a latent cell has."""
_SOFT_WEIGHTS = (0.25, 0.62, 0.825, 1.0)


class T2IAdapter:
    """A `ControlNetwork`."""

    kind = "t2i_adapter"
    forced_conditional = False

    def __init__(self, key: str, module: Any, dtype: torch.dtype, device: Device) -> None:
        self.key = key
        self.count = len(module.levels)
        self._module = module
        self._dtype = dtype
        self._device = device

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self._module
        return module

    def soft_weights(self) -> tuple[float, ...]:
        missing = self.count - len(_SOFT_WEIGHTS)
        return (_SOFT_WEIGHTS[0],) * missing + _SOFT_WEIGHTS[-self.count :]

    def embed(self, hint: Tensor) -> Hint:
        """Everything the network computes: one map per level of the UNet."""
        with self._device.running(self._module):
            return tuple(self._module(hint.to(self._device.plan.device, self._dtype)))

    def residuals(self, x: Tensor, t: Tensor, context: Tensor, hint: Hint, vector: Tensor | None = None) -> Residuals:
        return Residuals(levels=hint)


class _Block(nn.Module):
    """3x3, ReLU, 1x1 or 3x3, added to what came in; `down` halves the sides first."""

    def __init__(self, shapes: Shapes, prefix: str, *, down: bool) -> None:
        super().__init__()
        self.down = down
        self.down_opt = _Convolution(shapes, f"{prefix}.down_opt.op", stride=2) if down else None
        self.in_conv = _convolution(shapes, f"{prefix}.in_conv")
        self.block1 = _convolution(shapes, f"{prefix}.block1")
        self.block2 = _convolution(shapes, f"{prefix}.block2")
        self.skep = _convolution(shapes, f"{prefix}.skep")

    def forward(self, x: Tensor) -> Tensor:
        if self.down_opt is not None:
            x = self.down_opt(x)
        if self.in_conv is not None:
            x = self.in_conv(x)
        assert self.block1 is not None and self.block2 is not None
        changed = self.block2(nn.functional.relu(self.block1(x)))
        return changed + (x if self.skep is None else self.skep(x))


class _Convolution(nn.Module):
    """Halves the sides: by a convolution where the file has one, else by averaging."""

    def __init__(self, shapes: Shapes, prefix: str, stride: int) -> None:
        super().__init__()
        self.op = _convolution(shapes, prefix, stride)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 2) if self.op is None else self.op(x)


def _convolution(shapes: Shapes, prefix: str, stride: int = 1) -> nn.Conv2d | None:
    shape = shapes.get(f"{prefix}.weight")
    if shape is None:
        return None
    bias = f"{prefix}.bias" in shapes
    return nn.Conv2d(shape[1], shape[0], shape[2], stride=stride, padding=shape[2] // 2, bias=bias)


class _FullAdapter(nn.Module):
    """Several blocks per level, all at the level's full width."""

    def __init__(self, shapes: Shapes, per_level: int) -> None:
        super().__init__()
        entry = _convolution(shapes, "conv_in")
        assert entry is not None
        self.conv_in = entry
        self.body = nn.ModuleList(
            _Block(shapes, f"body.{index}", down=index > 0 and index % per_level == 0)
            for index in indices(shapes, "body.")
        )
        self.per_level = per_level
        widths = [shapes[f"body.{index}.block2.weight"][0] for index in indices(shapes, "body.")]
        self.levels: tuple[int, ...] = tuple(widths[per_level - 1 :: per_level])
        self.hint_channels = self.conv_in.in_channels // _UNSHUFFLE**2

    def forward(self, hint: Tensor) -> list[Tensor]:
        x = self.conv_in(_unshuffled(hint, self.hint_channels))
        found = []
        for index, block in enumerate(self.body, start=1):
            x = block(x)
            if index % self.per_level == 0:
                found.append(x)
        return found


class _LightLevel(nn.Module):
    def __init__(self, shapes: Shapes, prefix: str, *, down: bool) -> None:
        super().__init__()
        self.down = down
        self.in_conv = _convolution(shapes, f"{prefix}.in_conv")
        self.body = nn.Sequential(
            *(_Block(shapes, f"{prefix}.body.{index}", down=False) for index in indices(shapes, f"{prefix}.body."))
        )
        self.out_conv = _convolution(shapes, f"{prefix}.out_conv")

    def forward(self, x: Tensor) -> Tensor:
        assert self.in_conv is not None and self.out_conv is not None
        x = nn.functional.avg_pool2d(x, 2) if self.down else x
        return self.out_conv(self.body(self.in_conv(x)))


class _LightAdapter(nn.Module):
    """A narrow body per level, widened at its end (the colour adapter)."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.body = nn.ModuleList(
            _LightLevel(shapes, f"body.{index}", down=index > 0) for index in indices(shapes, "body.")
        )
        self.levels = tuple(shapes[f"body.{index}.out_conv.weight"][0] for index in indices(shapes, "body."))
        self.hint_channels = shapes["body.0.in_conv.weight"][1] // _UNSHUFFLE**2

    def forward(self, hint: Tensor) -> list[Tensor]:
        x, found = _unshuffled(hint, self.hint_channels), []
        for level in self.body:
            x = level(x)
            found.append(x)
        return found


def _unshuffled(hint: Tensor, channels: int) -> Tensor:
    """Adapters of line drawings read one channel."""
    return nn.functional.pixel_unshuffle(hint[:, :channels], _UNSHUFFLE)


@reading_structure("the T2I-Adapter")
def assemble_adapter(tensors: Mapping[str, Tensor], unet: Any) -> Assembly:
    """The adapter in `tensors` (names of its authors or of diffusers) for the diffusers UNet `unet`.

    Raises UnusableModel when it is broken or made for a UNet of other dimensions.
    """
    channels = tuple(unet.config.block_out_channels)
    named = _in_original_names(tensors)
    shapes = shapes_of(named)
    with torch.device("meta"):
        light = "body.0.out_conv.weight" in shapes
        module: Any = _LightAdapter(shapes) if light else _full(shapes, len(channels))
        module(torch.empty(1, 3, 64, 64))  # fails where the layers do not form a chain
    if tuple(module.levels) != channels:
        raise UnusableModel(
            f"a T2I-Adapter with {list(module.levels)} channels per level does not fit this checkpoint, which has "
            f"{list(channels)}"
        )
    return Assembly(module, named)


def _full(shapes: Shapes, levels: int) -> _FullAdapter:
    blocks = len(indices(shapes, "body."))
    if not blocks or blocks % levels:
        raise UnusableModel(f"a T2I-Adapter of {blocks} blocks does not fit a UNet of {levels} levels")
    return _FullAdapter(shapes, blocks // levels)


def _in_original_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    bare = {name.removeprefix("adapter."): tensor for name, tensor in tensors.items()}
    resnets = len(indices(bare, "body.0.resnets."))
    if not resnets:
        return bare
    light = "body.0.out_conv.weight" in bare
    return {_original_name(name, resnets, light): tensor for name, tensor in bare.items()}


def _original_name(name: str, resnets: int, light: bool) -> str:
    """diffusers nests the blocks of a level, and calls a full level's widening its `in_conv`."""
    if found := re.fullmatch(r"body\.(\d+)\.resnets\.(\d+)\.(.+)", name):
        level, block = int(found[1]), int(found[2])
        return f"body.{level}.body.{block}.{found[3]}" if light else f"body.{level * resnets + block}.{found[3]}"
    if (found := re.fullmatch(r"body\.(\d+)\.in_conv\.(\w+)", name)) and not light:
        return f"body.{int(found[1]) * resnets}.in_conv.{found[2]}"
    return name
