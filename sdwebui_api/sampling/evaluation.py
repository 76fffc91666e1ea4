"""What scripts see and may change around every evaluation of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Moment:
    """Of a pass: `number` of `total` model evaluations, counted from 0; `steps` of the sampler as asked for."""

    number: int
    total: int
    steps: int


@dataclass(frozen=True)
class EvaluationInputs:
    """What one evaluation of the UNet is about to see, for `EvaluationHooks`.

    The rows of x are those of all prompt parts (image by image), then one per image for the negative prompts; an
    edit model has a third group. levels `[N]`: sigma or timestep of each row; concat `[N, C, h, w]` or None;
    cond `[K, T, D]` and uncond `[B, T', D]`.
    """

    x: Tensor
    levels: Tensor
    concat: Tensor | None
    cond: Tensor
    uncond: Tensor
    at: Moment


@dataclass(frozen=True)
class Denoised:
    """Its predictions: rows as in `EvaluationInputs`; without negative prompts theirs repeat the prompts'."""

    x: Tensor
    at: Moment


@dataclass(frozen=True)
class Combined:
    """What guidance makes of them, `guided` `[B, 4, h, w]`, and of what.

    predictions: `Denoised.x`; parts: per image the (row, weight) of its prompts; uncond `[B, T, D]`: the negative
    prompts' conditioning; scale: the guidance scale.
    """

    guided: Tensor
    predictions: Tensor
    parts: Sequence[Sequence[tuple[int, float]]]
    uncond: Tensor
    scale: float
    at: Moment


@dataclass(frozen=True)
class Guided:
    """The prediction `[B, 4, h, w]` that the sampler gets.

    latent: `[B, 4, h, w]`, the sampler's own, which it asked about; level: its sigma or timestep.
    """

    x: Tensor
    at: Moment
    latent: Tensor | None = None
    level: float = 0.0


class EvaluationHooks(Protocol):
    """What scripts may change around every evaluation."""

    def cfg_denoiser(self, inputs: EvaluationInputs) -> EvaluationInputs: ...

    def cfg_denoised(self, denoised: Denoised) -> Denoised: ...

    def combine(self, combined: Combined) -> Combined: ...

    def after_cfg(self, guided: Guided) -> Guided: ...
