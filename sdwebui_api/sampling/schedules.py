"""Schedules: which sigmas a sampler visits. One function each, and the table of their names.

Every function takes `(steps, sigma_min, sigma_max, *, ...)` and gives falling sigmas, float32 on the CPU, the last
one 0 (KL Optimal, as in its paper, ends at sigma_min). To add one: write it and add its row to `SCHEDULES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdwebui_api.sampling.sigma_table import SigmaTable, append_zero

ALIGN_YOUR_STEPS_SD1 = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
ALIGN_YOUR_STEPS_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


@dataclass(frozen=True)
class ScheduleContext:
    """What some schedules need to know beyond the range."""

    table: SigmaTable
    sdxl: bool = False
    beta_alpha: float = 0.6
    beta_beta: float = 0.6


def karras(steps: int, sigma_min: float, sigma_max: float, *, rho: float = 7.0) -> Tensor:
    """Karras et al. 2022, "Elucidating the Design Space", equation 5."""
    ramp = torch.linspace(0, 1, steps)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return append_zero((high + ramp * (low - high)) ** rho)


def exponential(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Evenly spaced log sigma."""
    return append_zero(torch.linspace(math.log(sigma_max), math.log(sigma_min), steps).exp())


def polyexponential(steps: int, sigma_min: float, sigma_max: float, *, rho: float = 1.0) -> Tensor:
    """A power `rho` of a ramp in log sigma."""
    ramp = torch.linspace(1, 0, steps) ** rho
    return append_zero(torch.exp(ramp * (math.log(sigma_max) - math.log(sigma_min)) + math.log(sigma_min)))


def kl_optimal(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Sabour et al. 2024, "Align Your Steps", section 3: evenly spaced arctan sigma."""
    # In float32: near pi/2 the tangent magnifies the rounding, which recordings have too (Zero Terminal SNR).
    low, high = torch.tensor(sigma_min).arctan(), torch.tensor(sigma_max).arctan()
    share = torch.arange(steps + 1) / steps
    return torch.tan(share * low + (1.0 - share) * high)


def uniform(steps: int, sigma_min: float, sigma_max: float, *, context: ScheduleContext) -> Tensor:
    """Evenly spaced timesteps over the model's whole range, whatever range was asked for."""
    return context.table.evenly_spaced(steps).cpu()


def sgm_uniform(steps: int, sigma_min: float, sigma_max: float, *, context: ScheduleContext) -> Tensor:
    """Evenly spaced timesteps that stop one stride before the last (Stability's generative-models)."""
    return _at_timesteps(_timestep_ramp(steps + 1, sigma_min, sigma_max, context.table)[:-1], context.table)


def normal(steps: int, sigma_min: float, sigma_max: float, *, context: ScheduleContext) -> Tensor:
    """Evenly spaced timesteps of the range asked for."""
    return _at_timesteps(_timestep_ramp(steps, sigma_min, sigma_max, context.table), context.table)


def simple(steps: int, sigma_min: float, sigma_max: float, *, context: ScheduleContext) -> Tensor:
    """Every (T / steps)-th trained sigma, from the top."""
    sigmas = context.table.sigmas.float().cpu()
    stride = len(sigmas) / steps
    return append_zero(sigmas[[-(1 + int(i * stride)) for i in range(steps)]])


def ddim(steps: int, sigma_min: float, sigma_max: float, *, context: ScheduleContext) -> Tensor:
    """DDIM's timesteps 1, 1 + T // steps, …: may come out longer than `steps`."""
    sigmas = context.table.sigmas.float().cpu()
    return append_zero(sigmas[1 :: max(len(sigmas) // steps, 1)].flip(0))


def align_your_steps(steps: int, sigma_min: float, sigma_max: float, *, context: ScheduleContext) -> Tensor:
    """Sabour et al. 2024: sigmas optimised for ten steps, interpolated log-linearly for other counts."""
    sigmas = np.array(ALIGN_YOUR_STEPS_SDXL if context.sdxl else ALIGN_YOUR_STEPS_SD1)
    if steps != len(sigmas):
        places, wanted = np.linspace(0, 1, len(sigmas)), np.linspace(0, 1, steps)
        sigmas = np.exp(np.interp(wanted, places, np.log(sigmas[::-1])))[::-1]
    return append_zero(torch.tensor(sigmas.copy(), dtype=torch.float32))


def beta(steps: int, sigma_min: float, sigma_max: float, *, context: ScheduleContext) -> Tensor:
    """Lee et al. 2024, "Beta Sampling is All You Need": quantiles of a beta distribution, over sigma as in A1111."""
    from scipy import stats  # most of a second

    places = stats.beta.ppf(1 - np.linspace(0, 1, steps), context.beta_alpha, context.beta_beta)
    return append_zero(torch.tensor(sigma_min + places * (sigma_max - sigma_min), dtype=torch.float32))


def _timestep_ramp(count: int, sigma_min: float, sigma_max: float, table: SigmaTable) -> Tensor:
    ends = table.sigma_to_t(torch.tensor([sigma_max, sigma_min], device=table.sigmas.device))
    return torch.linspace(float(ends[0]), float(ends[1]), count, device=table.sigmas.device)


def _at_timesteps(timesteps: Tensor, table: SigmaTable) -> Tensor:
    return append_zero(table.t_to_sigma(timesteps)).cpu()


@dataclass(frozen=True)
class Schedule:
    """A row of `/sdapi/v1/schedulers`.

    `function` is None for Automatic (the sampler's preferred schedule, or the model's own sigmas) and `MODEL_SIGMAS`.
    `default_rho` is -1 for schedules without rho. `need_inner_model` is A1111's word for `needs the model's table`.
    """

    name: str
    label: str
    function: Callable[..., Tensor] | None
    default_rho: float = -1.0
    need_inner_model: bool = False
    aliases: Sequence[str] | None = None
    takes_context: bool = False

    def sigmas(self, steps: int, sigma_min: float, sigma_max: float, *, rho: float, context: ScheduleContext) -> Tensor:
        """`[steps + 1]` falling sigmas; `rho` 0 means the default."""
        if self.function is None:
            return context.table.evenly_spaced(steps).cpu()
        settings: dict[str, object] = {}
        if self.default_rho != -1 and rho:
            settings["rho"] = rho
        if self.takes_context or self.need_inner_model:
            settings["context"] = context
        return self.function(steps, sigma_min, sigma_max, **settings)

    def row(self) -> dict[str, object]:
        """As the API lists it."""
        return {
            "name": self.name,
            "label": self.label,
            "aliases": list(self.aliases) if self.aliases else None,
            "default_rho": self.default_rho,
            "need_inner_model": self.need_inner_model,
        }


SCHEDULES: tuple[Schedule, ...] = (
    Schedule("automatic", "Automatic", None),
    Schedule("uniform", "Uniform", uniform, need_inner_model=True),
    Schedule("karras", "Karras", karras, default_rho=7.0),
    Schedule("exponential", "Exponential", exponential),
    Schedule("polyexponential", "Polyexponential", polyexponential, default_rho=1.0),
    Schedule("sgm_uniform", "SGM Uniform", sgm_uniform, need_inner_model=True, aliases=("SGMUniform",)),
    Schedule("kl_optimal", "KL Optimal", kl_optimal),
    Schedule("align_your_steps", "Align Your Steps", align_your_steps, takes_context=True),
    Schedule("simple", "Simple", simple, need_inner_model=True),
    Schedule("normal", "Normal", normal, need_inner_model=True),
    Schedule("ddim", "DDIM", ddim, need_inner_model=True),
    Schedule("beta", "Beta", beta, need_inner_model=True),
)

AUTOMATIC = SCHEDULES[0]
MODEL_SIGMAS = Schedule("model_sigmas", "Model sigmas", None)
"""The model's own sigmas whatever the sampler prefers: what a hires pass has whose `hr_scheduler` is the name
"automatic" and not the label (A1111 `KDiffusionSampler.get_sigmas`).
"""
