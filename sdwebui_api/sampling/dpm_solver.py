"""DPM-Solver (Lu et al. 2022, arXiv:2206.00927) with a fixed number of evaluations ("fast") and adaptive steps.

Noise prediction in t = -log sigma. Both go from the largest to the smallest sigma, never to 0, so their result keeps
the noise of sigma_min. Signature and arguments as in `ode.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdwebui_api.errors import Diverged
from sdwebui_api.sampling.noise import NoiseFunction
from sdwebui_api.sampling.steps import Denoise, ancestral_step, sigma_of, t_of


@dataclass(frozen=True)
class Span:
    """Where a solver that makes its own steps begins and ends; `evaluations` is the budget of DPM fast."""

    sigma_max: float
    sigma_min: float
    evaluations: int

    @classmethod
    def of(cls, sigmas: Tensor) -> Span:
        """From a schedule that ends in 0; the value before the 0 is sigma_min."""
        return cls(float(sigmas[0]), float(sigmas[-2]), len(sigmas) - 1)


@dataclass
class _Evaluations:
    """eps(x, t), each point of one step computed once."""

    denoise: Denoise
    known: dict[str, Tensor] = field(default_factory=dict)

    def eps(self, name: str, x: Tensor, t: Tensor) -> Tensor:
        if name not in self.known:
            self.known[name] = (x - self.denoise(x, sigma_of(t))) / sigma_of(t)
        return self.known[name]


def _first(step: _Evaluations, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """DPM-Solver-1."""
    return x - sigma_of(t_next) * (t_next - t).expm1() * step.eps("start", x, t)


def _second(step: _Evaluations, x: Tensor, t: Tensor, t_next: Tensor, r1: float = 1 / 2) -> Tensor:
    """DPM-Solver-2, algorithm 1."""
    h = t_next - t
    eps = step.eps("start", x, t)
    s1 = t + r1 * h
    u1 = x - sigma_of(s1) * (r1 * h).expm1() * eps
    eps_1 = step.eps("r1", u1, s1)
    scale = sigma_of(t_next) * h.expm1()
    return x - scale * eps - scale / (2 * r1) * (eps_1 - eps)


def _third(step: _Evaluations, x: Tensor, t: Tensor, t_next: Tensor, r1: float = 1 / 3, r2: float = 2 / 3) -> Tensor:
    """DPM-Solver-3, algorithm 2."""
    h = t_next - t
    eps = step.eps("start", x, t)
    s1, s2 = t + r1 * h, t + r2 * h
    u1 = x - sigma_of(s1) * (r1 * h).expm1() * eps
    slope_1 = step.eps("r1", u1, s1) - eps
    u2 = (
        x
        - sigma_of(s2) * (r2 * h).expm1() * eps
        - sigma_of(s2) * (r2 / r1) * ((r2 * h).expm1() / (r2 * h) - 1) * slope_1
    )
    slope_2 = step.eps("r2", u2, s2) - eps
    return x - sigma_of(t_next) * h.expm1() * eps - sigma_of(t_next) / r2 * (h.expm1() / h - 1) * slope_2


def _ancestral_target(t: Tensor, t_next: Tensor, t_end: Tensor, eta: float) -> tuple[Tensor, Tensor | float]:
    """Where to step to, and how much noise to add, to arrive at t_next with `eta` of it fresh."""
    if not eta:
        return t_next, 0.0
    down, _ = ancestral_step(sigma_of(t), sigma_of(t_next), eta)
    target = torch.minimum(t_end, t_of(down))
    return target, (sigma_of(t_next) ** 2 - sigma_of(target) ** 2) ** 0.5


def _orders(evaluations: int) -> list[int]:
    """Third order steps as far as the budget goes, the rest in one or two lower ones."""
    steps = evaluations // 3 + 1
    if evaluations % 3 == 0:
        return [3] * (steps - 2) + [2, 1]
    return [3] * (steps - 1) + [evaluations % 3]


def sample_dpm_fast(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseFunction,
    span: Span | None = None,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Tensor:
    """DPM-Solver-fast, section 3.4: even steps in t, `span.evaluations` model evaluations in all."""
    span = span or Span.of(sigmas)
    orders = _orders(span.evaluations)
    t_start, t_end = t_of(torch.tensor(span.sigma_max)), t_of(torch.tensor(span.sigma_min))
    times = torch.linspace(float(t_start), float(t_end), len(orders) + 1)
    for i, order in enumerate(orders):
        t, t_next = times[i], times[i + 1]
        target, up = _ancestral_target(t, t_next, t_end, eta)
        x = (_first, _second, _third)[order - 1](_Evaluations(denoise), x, t, target)
        x = x + up * s_noise * noise(sigma_of(t), sigma_of(t_next))
    return x


@dataclass
class _StepSize:
    """Integral controller of the step length `h` (k-diffusion's PID controller with only the I term)."""

    h: float
    order: float
    accept_safety: float = 0.81

    def propose(self, error: float) -> bool:
        """Adapt h to the error of a step; True when the step may be kept."""
        factor = (1 / (error + 1e-8)) ** (1.0 / self.order)
        factor = 1 + math.atan(factor - 1)
        self.h *= factor
        return factor >= self.accept_safety


def sample_dpm_adaptive(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseFunction,
    span: Span | None = None,
    eta: float = 0.0,
    s_noise: float = 1.0,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
) -> Tensor:
    """DPM-Solver-23, appendix C: second and third order solutions of each step give its error."""
    span = span or Span.of(sigmas)
    t = t_of(torch.tensor(span.sigma_max))
    t_end = t_of(torch.tensor(span.sigma_min))
    size = _StepSize(h_init, 1.5 if eta else 3)
    x_low_before = x
    while t < t_end - 1e-5:
        t_next = torch.minimum(t_end, t + size.h)
        target, up = _ancestral_target(t, t_next, t_end, eta)
        step = _Evaluations(denoise)
        x_low = _second(step, x, t, target, r1=1 / 3)
        x_high = _third(step, x, t, target)
        allowed = (rtol * torch.maximum(x_low.abs(), x_low_before.abs())).clamp(min=atol)
        error = torch.linalg.norm((x_low - x_high) / allowed) / x.numel() ** 0.5
        if not math.isfinite(error) or t_next == t:
            raise Diverged("DPM adaptive finds no step that is small enough; try a lower cfg_scale or another sampler")
        if size.propose(float(error)):
            x_low_before = x_low
            x = x_high + up * s_noise * noise(sigma_of(t), sigma_of(t_next))
            t = t_next
    return x
