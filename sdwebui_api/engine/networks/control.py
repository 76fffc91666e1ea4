"""What control networks have in common: a hint goes in once, residuals for the UNet come out at every evaluation."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Hint = tuple[Tensor, ...]
"""What a network made of a picture once and for all: tensors with one row per picture."""


@dataclass(frozen=True)
class Residuals:
    """What is added inside the UNet, each `[B, C, h, w]`, or `[B, C, 1, 1]` where a network averages over the picture.

    skips: to the skip connections, first convolution first, and middle: to the middle block's output (ControlNet).
    levels: to the output of each level's last block on the way down, finest first (T2I-Adapter).
    """

    skips: tuple[Tensor, ...] = ()
    middle: Tensor | None = None
    levels: tuple[Tensor, ...] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """In the order of `ControlInput.scales`."""
        return (*self.skips, *((self.middle,) if self.middle is not None else ()), *self.levels)

    def rebuilt(self, tensors: Sequence[Tensor]) -> Residuals:
        """The same with other tensors in their places."""
        skips, rest = tensors[: len(self.skips)], tensors[len(self.skips) :]
        middle = rest[0] if self.middle is not None else None
        return Residuals(tuple(skips), middle, tuple(rest[1:] if middle is not None else rest))

    def plus(self, other: Residuals) -> Residuals:
        return Residuals(
            _sum(self.skips, other.skips),
            self.middle
            if other.middle is None
            else other.middle
            if self.middle is None
            else self.middle + other.middle,
            _sum(self.levels, other.levels),
        )


def _sum(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if not first or not second:
        return first or second
    return tuple(a + b for a, b in zip(first, second, strict=True))


class ControlNetwork(Protocol):
    """Weights that turn a hint into residuals."""

    @property
    def key(self) -> str: ...

    @property
    def kind(self) -> str:
        """`controlnet`, `t2i_adapter`, `reference` …"""
        ...

    @property
    def count(self) -> int:
        """How many residuals it makes."""
        ...

    @property
    def forced_conditional(self) -> bool:
        """Works on the prompts' rows only, whatever the control mode."""
        ...

    @property
    def module(self) -> nn.Module: ...

    def soft_weights(self) -> tuple[float, ...]:
        """Factors of the residuals in the soft control modes, `count` of them."""
        ...

    def embed(self, hint: Tensor) -> Hint:
        """`hint` `[N, 3, H, W]` in [0, 1] (inpainting: -1 where it is masked). Holds the device meanwhile."""
        ...

    def residuals(self, x: Tensor, t: Tensor, context: Tensor, hint: Hint, vector: Tensor | None = None) -> Residuals:
        """Of `x` `[B, 4, h, w]`, `t` `[B]`, `context` `[B, T, D]`, all in the UNet's precision and place.

        `vector` `[B, V]`: what the UNet's label embedding gets, if it has one.
        """
        ...


@dataclass(frozen=True)
class ControlInput:
    """One network's part in one evaluation of B rows.

    hint: rows as in x. scales: `[B, count]`, a factor per residual. region: `[B, 1, H, W]` in [0, 1], or None.
    context: `[B, T, D]`, what the network reads instead of the prompt, or None.
    """

    network: ControlNetwork
    hint: Hint
    scales: Tensor
    region: Tensor | None = None
    context: Tensor | None = None

    @property
    def kind(self) -> Hashable:
        """Inputs of equal kind may share a forward pass."""
        others = (None if one is None else one.shape[1:] for one in (self.region, self.context))
        return self.network.key, tuple(tensor.shape[1:] for tensor in self.hint), *others

    def scaled(self, x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None = None) -> Residuals:
        """The residuals, weighted, in x's precision and place."""
        hint = tuple(tensor.to(x) for tensor in self.hint)
        context = context if self.context is None else self.context.to(context)
        found = self.network.residuals(x, t, context, hint, vector)
        scales = self.scales.to(x)
        return found.rebuilt(
            [self._in_region(tensor * scales[:, index, None, None, None]) for index, tensor in enumerate(found.tensors)]
        )

    def _in_region(self, tensor: Tensor) -> Tensor:
        if self.region is None:
            return tensor
        region = nn.functional.interpolate(self.region.to(tensor), size=tensor.shape[-2:], mode="bilinear")
        return tensor * region


def joined(inputs: Sequence[Sequence[ControlInput]]) -> tuple[ControlInput, ...]:
    """The inputs of several evaluations as those of one; their kinds agree."""
    return tuple(
        ControlInput(
            first.network,
            tuple(torch.cat(tensors) for tensors in zip(*(one.hint for one in same), strict=True)),
            torch.cat([one.scales for one in same]),
            optional_rows([one.region for one in same]),
            optional_rows([one.context for one in same]),
        )
        for first, *rest in zip(*inputs, strict=True)
        for same in [[first, *rest]]
    )


def optional_rows(parts: Sequence[Tensor | None]) -> Tensor | None:
    """One tensor of the rows of several evaluations; all have it or none has."""
    given = [part for part in parts if part is not None]
    return torch.cat(given) if given else None


def sum_residuals(
    inputs: Sequence[ControlInput], x: Tensor, t: Tensor, context: Tensor, vector: Tensor | None = None
) -> Residuals:
    total = Residuals()
    for one in inputs:
        total = total.plus(one.scaled(x, t, context, vector))
    return total


@contextmanager
def adding(unet: Any, residuals: Residuals) -> Iterator[dict[str, Any]]:
    """Arguments for one call of diffusers' UNet2DConditionModel that make it add `residuals`.

    Hold the device meanwhile: hooks are hung into the module for the duration.
    """
    arguments: dict[str, Any] = {}
    with ExitStack() as hooks:
        if residuals.skips and residuals.middle is not None:
            arguments["down_block_additional_residuals"] = residuals.skips
            arguments["mid_block_additional_residual"] = residuals.middle
        for block, residual in zip(unet.down_blocks, residuals.levels, strict=False):
            handle = _last_layer(block).register_forward_hook(_adder(residual))
            hooks.callback(handle.remove)
        yield arguments


def _last_layer(block: Any) -> nn.Module:
    """What a level's blocks end with, before the downsampler."""
    layers = block.attentions if getattr(block, "attentions", None) else block.resnets
    last: nn.Module = layers[-1]
    return last


def _adder(residual: Tensor) -> Any:
    def add(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + _fitted(residual, output[0]), *output[1:])
        return output + _fitted(residual, output)

    return add


def _fitted(residual: Tensor, output: Tensor) -> Tensor:
    if residual.shape[-2:] in (output.shape[-2:], (1, 1)):
        return residual
    return nn.functional.interpolate(residual, size=output.shape[-2:], mode="nearest")
