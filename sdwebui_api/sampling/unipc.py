"""UniPC (Zhao et al. 2023, arXiv:2302.04867): unified predictor-corrector, multistep, with data prediction.

Continuous time t in (0, 1]: t = (n + 1) / N for the model's timestep n. lambda is half the log-SNR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdwebui_api.sampling.timestep_samplers import PredictEps


class NoiseScheduleVP:
    """log alpha_t of a discrete-time model, interpolated linearly in t. DPM-Solver, appendix D.4."""

    def __init__(self, alphas_cumprod: Tensor) -> None:
        self._log_alphas = (0.5 * torch.log(alphas_cumprod.detach().cpu())).double()
        self.count = len(self._log_alphas)
        self._times = torch.linspace(0.0, 1.0, self.count + 1)[1:].double()

    def log_alpha(self, t: Tensor) -> Tensor:
        return _interpolate(t, self._times, self._log_alphas)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(1.0 - torch.exp(2.0 * self.log_alpha(t)))

    def half_log_snr(self, t: Tensor) -> Tensor:
        return self.log_alpha(t) - torch.log(self.sigma(t))

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        """The inverse of `half_log_snr`."""
        log_alpha = -0.5 * torch.logaddexp(torch.zeros_like(half_log_snr), -2.0 * half_log_snr)
        return _interpolate(log_alpha, self._log_alphas.flip(0), self._times.flip(0))


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Piecewise linear through (xs, ys), xs rising; the outermost pieces go on beyond the ends."""
    right = torch.searchsorted(xs, x.to(xs).contiguous()).clamp(1, len(xs) - 1)
    left = right - 1
    return ys[left] + (x.to(xs) - xs[left]) * (ys[right] - ys[left]) / (xs[right] - xs[left])


def solver_times(ns: NoiseScheduleVP, skip_type: str, t_start: float, steps: int) -> Tensor:
    """`[steps + 1]` falling times from `t_start` to 1 / N. skip_type: time_uniform, time_quadratic or logSNR."""
    t_end = 1.0 / ns.count
    if skip_type == "logSNR":
        ends = ns.half_log_snr(torch.tensor([t_start, t_end], dtype=torch.float64))
        return ns.time_of(torch.linspace(float(ends[0]), float(ends[1]), steps + 1, dtype=torch.float64))
    if skip_type == "time_quadratic":
        return torch.linspace(t_start**0.5, t_end**0.5, steps + 1).double().pow(2)
    return torch.linspace(t_start, t_end, steps + 1).double()


@dataclass(frozen=True)
class _Point:
    """One evaluated time: t, half the log-SNR there, and the data prediction."""

    t: Tensor
    half_log_snr: Tensor
    image: Tensor


class _Solver:
    def __init__(self, predict_eps: PredictEps, ns: NoiseScheduleVP, variant: str) -> None:
        self._predict_eps = predict_eps
        self._ns = ns
        self._variant = variant

    def evaluate(self, x: Tensor, t: Tensor) -> _Point:
        timestep = ((t - 1.0 / self._ns.count) * 1000.0).float()
        eps = self._predict_eps(x, timestep)
        image = (x - float(self._ns.sigma(t)) * eps) / float(self._ns.log_alpha(t).exp())
        return _Point(t, self._ns.half_log_snr(t), image)

    def step(
        self, x: Tensor, points: Sequence[_Point], t: Tensor, order: int, correct: bool
    ) -> tuple[Tensor, _Point | None]:
        """From the last of `points` to t: the predictor, then (unless at the end) the corrector.

        Returns the new x and the point evaluated for the corrector.
        """
        last = points[-1]
        h = self._ns.half_log_snr(t) - last.half_log_snr
        earlier = list(reversed(points[:-1]))[: order - 1]
        ratios = [(point.half_log_snr - last.half_log_snr) / h for point in earlier]
        slopes = [(point.image - last.image) / float(r) for point, r in zip(earlier, ratios, strict=True)]
        alpha = float(self._ns.log_alpha(t).exp())
        base = float(self._ns.sigma(t) / self._ns.sigma(last.t)) * x - alpha * float((-h).expm1()) * last.image
        matrix, right = self._system(ratios, h)
        scale = alpha * self._b(h)

        x_predicted = base - scale * _weighted(self._predictor_weights(matrix, right, order), slopes)
        if not correct:
            return x_predicted, None
        point = self.evaluate(x_predicted, t)
        weights = torch.tensor([0.5]) if order == 1 else torch.linalg.solve(matrix, right)
        return base - scale * _weighted(weights, [*slopes, point.image - last.image]), point

    def _b(self, h: Tensor) -> float:
        """B(h) of the variant: bh1 is h, bh2 is e^h - 1 (of -h, for data prediction)."""
        return float(-h if self._variant == "bh1" else (-h).expm1())

    def _system(self, ratios: Sequence[Tensor], h: Tensor) -> tuple[Tensor, Tensor]:
        """R and b of the paper's equation 6, whose solution weighs the slopes."""
        hh = -h
        nodes = torch.stack([*ratios, torch.ones_like(h)])
        phi = hh.expm1() / hh - 1
        factorial = 1.0
        rows, right = [], []
        for k in range(1, len(nodes) + 1):
            rows.append(nodes ** (k - 1))
            right.append(phi * factorial / self._b(h))
            factorial *= k + 1
            phi = phi / hh - 1 / factorial
        return torch.stack(rows), torch.stack(right)

    @staticmethod
    def _predictor_weights(matrix: Tensor, right: Tensor, order: int) -> Tensor:
        if order == 2:
            return torch.tensor([0.5])
        return torch.linalg.solve(matrix[:-1, :-1], right[:-1]) if order > 2 else right[:0]


class _VaryingSolver(_Solver):
    """The variant `vary_coeff`: coefficients from the inverse of the paper's matrix C instead of B(h)."""

    def step(
        self, x: Tensor, points: Sequence[_Point], t: Tensor, order: int, correct: bool
    ) -> tuple[Tensor, _Point | None]:
        last = points[-1]
        h = self._ns.half_log_snr(t) - last.half_log_snr
        earlier = list(reversed(points[:-1]))[: order - 1]
        ratios = [(point.half_log_snr - last.half_log_snr) / h for point in earlier]
        slopes = [(point.image - last.image) / float(r) for point, r in zip(earlier, ratios, strict=True)]
        alpha = float(self._ns.log_alpha(t).exp())
        phis = _phis(-h, order + 1)
        base = float(self._ns.sigma(t) / self._ns.sigma(last.t)) * x - alpha * phis[0] * last.image
        matrix = _taylor_matrix(torch.stack([*ratios, torch.ones_like(h)]))

        x_predicted = base
        if slopes:
            inverse = torch.linalg.inv(matrix[:-1, :-1])
            for k in range(order - 1):
                x_predicted = x_predicted - alpha * phis[k + 1] * _weighted(inverse[k], slopes)
        if not correct:
            return x_predicted, None
        point = self.evaluate(x_predicted, t)
        inverse = torch.linalg.inv(matrix)
        x_next = base
        for k in range(order - 1):
            x_next = x_next - alpha * phis[k + 1] * _weighted(inverse[k][:-1], slopes)
        # As in the authors' code, the new slope enters with the weight of the last row the loop reached.
        weight = float(inverse[max(order - 2, 0)][-1])
        return x_next - alpha * phis[order] * weight * (point.image - last.image), point


def _phis(hh: Tensor, count: int) -> list[float]:
    """h phi_1(h), h phi_2(h) … of the exponential integrator."""
    value, factorial, phis = hh.expm1(), 1, []
    for k in range(1, count + 1):
        phis.append(float(value))
        value = value / hh - 1 / factorial
        factorial *= k + 1
    return phis


def _taylor_matrix(nodes: Tensor) -> Tensor:
    """C of the paper: column k holds nodes^k / (k + 1)!."""
    columns = [torch.ones_like(nodes)]
    for k in range(1, len(nodes)):
        columns.append(columns[-1] * nodes / (k + 1))
    return torch.stack(columns, dim=1)


def _weighted(weights: Tensor, tensors: Sequence[Tensor]) -> Tensor | float:
    total: Tensor | float = 0.0
    for weight, tensor in zip(weights, tensors, strict=True):
        total = total + float(weight) * tensor
    return total


def sample_unipc(
    predict_eps: PredictEps,
    x: Tensor,
    timesteps: Tensor,
    *,
    alphas_cumprod: Tensor,
    is_img2img: bool = False,
    uni_pc_variant: str = "bh1",
    uni_pc_skip_type: str = "time_uniform",
    uni_pc_order: int = 3,
    uni_pc_lower_order_final: bool = True,
) -> Tensor:
    """UniPC-p, algorithms 5 to 8. Only the count of `timesteps` matters, and for img2img the largest of them.

    uni_pc_variant: bh1, bh2 or vary_coeff. The order is lowered where there are fewer steps than that; without steps
    x comes back as it is.
    """
    if len(timesteps) == 0:
        return x
    ns = NoiseScheduleVP(alphas_cumprod)
    steps = len(timesteps)
    order = min(int(uni_pc_order), steps)
    t_start = float(timesteps[-1]) / 1000 + 1 / 1000 if is_img2img else 1.0
    times = solver_times(ns, uni_pc_skip_type, t_start, steps)
    kind = _VaryingSolver if uni_pc_variant == "vary_coeff" else _Solver
    solver = kind(predict_eps, ns, uni_pc_variant)

    points = [solver.evaluate(x, times[0])]
    for step in range(1, steps + 1):
        current = min(order, step, steps + 1 - step) if uni_pc_lower_order_final and step >= order else min(order, step)
        x, point = solver.step(x, points, times[step], current, correct=step < steps)
        if point is not None:
            points = [*points, point][-order:]
    return x
