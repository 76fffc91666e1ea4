"""Control networks during one sampling pass: who adds how much to which row at which evaluation.

Follows the ControlNet extension 1.1.455 (`scripts/hook.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdwebui_api.control.unit import ControlMode, ControlUnit
from sdwebui_api.engine.networks.control import ControlInput, ControlNetwork, Hint
from sdwebui_api.engine.networks.ip_adapter import IPAdapter
from sdwebui_api.engine.networks.reference import Reference
from sdwebui_api.engine.networks.style_adapter import StyleAdapter
from sdwebui_api.errors import BadRequest
from sdwebui_api.sampling.evaluation import Moment
from sdwebui_api.sampling.rows import Row

Finish = Callable[[Tensor, Tensor, Tensor, Sequence[Row]], Tensor]
"""(x, timesteps, the UNet's output, rows) -> the output that counts."""

_LINE_MAPS = ("canny", "mlsd")
"""Preprocessors whose units are always soft in the hires pass."""


@dataclass(frozen=True)
class ActiveUnit:
    """A unit in one pass. hint: rows for the pictures it was given; region: `[1, 1, H, W]`, or None.

    words: tokens that the network reads instead of prompts, and instead of negative prompts, `[1, T, D]` each; or none.
    """

    unit: ControlUnit
    network: ControlNetwork | None
    hint: Hint = ()
    region: Tensor | None = None
    finish: Finish | None = None
    words: Hint = ()

    def weights(self, hires_pass: bool) -> tuple[float, ...]:
        """A factor per residual."""
        assert self.network is not None
        unit = self.unit
        if unit.advanced_weighting is not None:
            if len(unit.advanced_weighting) != self.network.count:
                raise BadRequest(
                    f"advanced_weighting has {len(unit.advanced_weighting)} numbers, this model takes "
                    f"{self.network.count}",
                    field=f"{unit.field}.advanced_weighting",
                )
            return unit.advanced_weighting
        soft = unit.control_mode != ControlMode.BALANCED
        soft = soft or (hires_pass and any(name in unit.module.name for name in _LINE_MAPS))
        factors = self.network.soft_weights() if soft else (1.0,) * self.network.count
        return tuple(unit.weight * factor for factor in factors)

    def counts_for(self, row: Row) -> bool:
        if row.prompt or self.network is None or isinstance(self.network, (Reference, IPAdapter)):
            return True
        return self.unit.control_mode != ControlMode.CONTROL and not self.network.forced_conditional


@dataclass(frozen=True)
class Adding:
    """What one evaluation gets: the networks' inputs, and what is done to its output."""

    inputs: tuple[ControlInput, ...]
    rows: tuple[Row, ...]
    finishes: tuple[Finish, ...] = ()

    def finish(self, x: Tensor, t: Tensor, output: Tensor) -> Tensor:
        for finish in self.finishes:
            output = finish(x, t, output, self.rows)
        return output


class PassControl:
    """A `sampling.guidance.ControlSource`."""

    def __init__(self, units: Sequence[ActiveUnit], *, hires_pass: bool, seed: int = 0) -> None:
        """`seed`: of the noise that references get. Raises BadRequest when a unit's weights do not fit its network."""
        self._seed = seed
        self._units = [(active, active.weights(hires_pass) if active.network is not None else ()) for active in units]

    def at(self, now: Moment, rows: Sequence[Row]) -> Adding | None:
        share = sampling_share(now)
        inputs: list[ControlInput] = []
        finishes: list[Finish] = []
        for active, weights in self._units:
            if active.finish is not None:
                finishes.append(active.finish)
            if not active.unit.guidance_start <= share <= active.unit.guidance_end:
                continue
            counting = [1.0 if active.counts_for(row) else 0.0 for row in rows]
            if active.network is not None and (any(counting) or isinstance(active.network, StyleAdapter)):
                one = _input(active, active.network, weights, counting, rows)
                inputs.append(self._with_noise(one, now, rows) if isinstance(active.network, Reference) else one)
        if not inputs and not finishes:
            return None
        return Adding(tuple(inputs), tuple(rows), tuple(finishes))

    def _with_noise(self, one: ControlInput, now: Moment, rows: Sequence[Row]) -> ControlInput:
        """Another noise for the reference at every evaluation, the same for both rows of a picture."""
        latents = one.hint[0]
        draw = torch.Generator().manual_seed((self._seed + 7919 * now.number) % 2**63)
        noise = torch.randn(1 + max(row.image for row in rows), *latents.shape[1:], generator=draw)
        prompts = torch.tensor([float(row.prompt) for row in rows])[:, None, None, None]
        return replace(one, hint=(latents, noise[[row.image for row in rows]].to(latents), prompts))


def _input(
    active: ActiveUnit, network: ControlNetwork, weights: Sequence[float], counting: list[float], rows: Sequence[Row]
) -> ControlInput:
    scales = torch.tensor(counting)[:, None] * torch.tensor(weights)[None, :]
    hint = tuple(tensor[[row.image % len(tensor) for row in rows]] for tensor in active.hint)
    if isinstance(network, IPAdapter):  # the negative prompts' rows see no picture
        hint = (_by_prompt(hint, rows),)
    context = (
        _by_prompt(tuple(tensor.expand(len(rows), -1, -1) for tensor in active.words), rows) if active.words else None
    )
    region = None if active.region is None else active.region.expand(len(rows), -1, -1, -1)
    return ControlInput(network, hint, scales, region, context)


def _by_prompt(tokens: Hint, rows: Sequence[Row]) -> Tensor:
    """Of two tensors `[rows, T, D]`, the first's rows for prompts, the second's for negative prompts."""
    seen, unseen = tokens
    prompts = torch.tensor([row.prompt for row in rows], device=seen.device)[:, None, None]
    return torch.where(prompts, seen, unseen)


def sampling_share(now: Moment) -> float:
    """How far the sampling is, as A1111's `state.sampling_step` has it: it counts the steps that were reported.

    A step is reported after its first evaluation, so the evaluations lag one behind.
    """
    done = max(0, (now.number - 1) * now.steps // max(now.total, 1))
    return done / max(now.steps, 1)
