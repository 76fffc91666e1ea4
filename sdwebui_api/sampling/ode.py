"""Samplers of the probability flow ODE: Euler, Heun, DPM2, LMS, their ancestral kin, Restart and LCM.

All open with `(denoise, x, sigmas, *, …)`: `x` `[B, C, h, w]` carries noise of level `sigmas[0]`, `sigmas` falls to 0,
and the result is the denoised latent. `noise(sigma, sigma_next)` gives unit normal noise. They follow k-diffusion
(Crowson, `sampling.py`, as pinned by A1111 1.10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

from torch import Tensor

from sdwebui_api.sampling.noise import NoiseFunction
from sdwebui_api.sampling.schedules import karras
from sdwebui_api.sampling.steps import Denoise, ancestral_step, to_d

INFINITY = float("inf")

Churn = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(x, step) -> (x with noise added, its new sigma)."""


def _churn(sigmas: Tensor, noise: NoiseFunction, amount: float, tmin: float, tmax: float, s_noise: float) -> Churn:
    """Karras et al. 2022, algorithm 2: raise the noise level a little before each step inside [tmin, tmax]."""
    gamma = min(amount / max(len(sigmas) - 1, 1), 2**0.5 - 1)

    def churned(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        sigma = sigmas[i]
        if gamma <= 0:
            return x, sigma
        eps = noise(sigma, sigmas[i + 1]) * s_noise  # drawn outside the range too: the stream stays aligned
        if not tmin <= float(sigma) <= tmax:
            return x, sigma
        sigma_hat = sigma * (gamma + 1)
        return x + eps * (sigma_hat**2 - sigma**2) ** 0.5, sigma_hat

    return churned


def sample_euler(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseFunction,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = INFINITY,
    s_noise: float = 1.0,
) -> Tensor:
    """Karras et al. 2022, algorithm 2, with Euler steps."""
    churned = _churn(sigmas, noise, s_churn, s_tmin, s_tmax, s_noise)
    for i in range(len(sigmas) - 1):
        x, sigma_hat = churned(x, i)
        d = to_d(x, sigma_hat, denoise(x, sigma_hat))
        x = x + d * (sigmas[i + 1] - sigma_hat)
    return x


def sample_euler_ancestral(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, noise: NoiseFunction, eta: float = 1.0, s_noise: float = 1.0
) -> Tensor:
    """Euler steps to below the target, then noise up to it."""
    for i in range(len(sigmas) - 1):
        sigma_down, sigma_up = ancestral_step(sigmas[i], sigmas[i + 1], eta)
        d = to_d(x, sigmas[i], denoise(x, sigmas[i]))
        x = x + d * (sigma_down - sigmas[i])
        if sigmas[i + 1] > 0:
            x = x + noise(sigmas[i], sigmas[i + 1]) * s_noise * sigma_up
    return x


def sample_heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseFunction,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = INFINITY,
    s_noise: float = 1.0,
) -> Tensor:
    """Karras et al. 2022, algorithm 2, with Heun steps."""
    churned = _churn(sigmas, noise, s_churn, s_tmin, s_tmax, s_noise)
    for i in range(len(sigmas) - 1):
        x, sigma_hat = churned(x, i)
        x = _heun_step(denoise, x, sigma_hat, sigmas[i + 1])
    return x


def _heun_step(denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    d = to_d(x, sigma, denoise(x, sigma))
    dt = sigma_next - sigma
    euler = x + d * dt
    if sigma_next == 0:
        return euler
    d_next = to_d(euler, sigma_next, denoise(euler, sigma_next))
    return x + (d + d_next) / 2 * dt


def sample_dpm_2(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseFunction,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = INFINITY,
    s_noise: float = 1.0,
) -> Tensor:
    """DPM-Solver-2 (Lu et al. 2022) steps under the churn of Karras et al. 2022."""
    churned = _churn(sigmas, noise, s_churn, s_tmin, s_tmax, s_noise)
    for i in range(len(sigmas) - 1):
        x, sigma_hat = churned(x, i)
        x = _midpoint_step(denoise, x, sigma_hat, sigmas[i + 1])
    return x


def sample_dpm_2_ancestral(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, noise: NoiseFunction, eta: float = 1.0, s_noise: float = 1.0
) -> Tensor:
    """DPM-Solver-2 steps to below the target, then noise up to it."""
    for i in range(len(sigmas) - 1):
        sigma_down, sigma_up = ancestral_step(sigmas[i], sigmas[i + 1], eta)
        x = _midpoint_step(denoise, x, sigmas[i], sigma_down)
        if sigma_down > 0:
            x = x + noise(sigmas[i], sigmas[i + 1]) * s_noise * sigma_up
    return x


def _midpoint_step(denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    d = to_d(x, sigma, denoise(x, sigma))
    if sigma_next == 0:
        return x + d * (sigma_next - sigma)
    sigma_mid = sigma.log().lerp(sigma_next.log(), 0.5).exp()
    x_mid = x + d * (sigma_mid - sigma)
    d_mid = to_d(x_mid, sigma_mid, denoise(x_mid, sigma_mid))
    return x + d_mid * (sigma_next - sigma)


def sample_lms(denoise: Denoise, x: Tensor, sigmas: Tensor, *, order: int = 4) -> Tensor:
    """Linear multistep (Adams-Bashforth) over uneven steps."""
    times: list[float] = sigmas.detach().cpu().double().tolist()
    derivatives: list[Tensor] = []
    for i in range(len(sigmas) - 1):
        derivatives = [to_d(x, sigmas[i], denoise(x, sigmas[i])), *derivatives][:order]
        current = len(derivatives)
        for j, d in enumerate(derivatives):
            x = x + _lms_coefficient(current, times, i, j) * d
    return x


def _lms_coefficient(order: int, t: list[float], i: int, j: int) -> float:
    """The integral over step i of the Lagrange polynomial that belongs to the derivative j steps back."""
    from scipy import integrate  # most of a second

    def lagrange(tau: float) -> float:
        product = 1.0
        for k in range(order):
            if k != j:
                product *= (tau - t[i - k]) / (t[i - j] - t[i - k])
        return product

    return float(integrate.quad(lagrange, t[i], t[i + 1], epsrel=1e-4)[0])


def sample_restart(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, noise: NoiseFunction, s_noise: float = 1.0
) -> Tensor:
    """Xu et al. 2023, "Restart Sampling": Heun, but from 20 steps on part of them goes to climbs back up to sigma 2."""
    previous: Tensor | None = None
    for sigma, sigma_next in _restart_steps(sigmas):
        if previous is not None and previous < sigma:
            x = x + noise(previous, sigma) * s_noise * (sigma**2 - previous**2) ** 0.5
        x = _heun_step(denoise, x, sigma, sigma_next)
        previous = sigma_next
    return x


def _restart_steps(sigmas: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The (sigma, sigma_next) pairs of Restart, with A1111's choice of how many steps go into restarts."""
    steps = len(sigmas) - 1
    times, length = (0, 0) if steps < 20 else (1, 9) if steps < 36 else (2, steps // 4)
    if not times:
        yield from pairwise(sigmas)
        return
    kept = karras(steps - length * times, sigmas[-2].item(), sigmas[0].item())
    bottom, top = (int((kept - level).abs().argmin()) for level in (0.1, 2.0))
    for i in range(len(kept) - 1):
        yield kept[i], kept[i + 1]
        if i + 1 == bottom and top < bottom:
            climb = karras(length + 1, kept[bottom].item(), kept[top].item())[:-1]
            for _ in range(times):
                yield from pairwise(climb)


def sample_lcm(denoise: Denoise, x: Tensor, sigmas: Tensor, *, noise: NoiseFunction) -> Tensor:
    """Luo et al. 2023, "Latent Consistency Models": denoise at once, then add the next level's noise."""
    for i in range(len(sigmas) - 1):
        x = denoise(x, sigmas[i])
        if sigmas[i + 1] > 0:
            x = x + sigmas[i + 1] * noise(sigmas[i], sigmas[i + 1])
    return x
