"""DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095): 2M, 2S ancestral, SDE, 2M SDE and 3M SDE.

Data prediction in the variance exploding frame, where t = -log sigma is half the log-SNR. Signature and arguments as
in `ode.py`.
"""

from __future__ import annotations

from torch import Tensor

from sdwebui_api.sampling.noise import NoiseFunction
from sdwebui_api.sampling.steps import Denoise, ancestral_step, sigma_of, t_of, to_d


def _first_order(x: Tensor, denoised: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """The exact solution over [t, t_next] for a constant data prediction (DDIM)."""
    return (sigma_of(t_next) / sigma_of(t)) * x - (t - t_next).expm1() * denoised


def sample_dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """DPM-Solver++(2M), algorithm 2: the previous evaluation extrapolates to the middle of the step."""
    previous: Tensor | None = None
    for i in range(len(sigmas) - 1):
        denoised = denoise(x, sigmas[i])
        t, t_next = t_of(sigmas[i]), t_of(sigmas[i + 1])
        if previous is None or sigmas[i + 1] == 0:
            x = _first_order(x, denoised, t, t_next)
        else:
            r = (t - t_of(sigmas[i - 1])) / (t_next - t)
            midway = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * previous
            x = _first_order(x, midway, t, t_next)
        previous = denoised
    return x


def sample_dpmpp_2s_ancestral(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, noise: NoiseFunction, eta: float = 1.0, s_noise: float = 1.0
) -> Tensor:
    """DPM-Solver++(2S), algorithm 1, to below the target, then noise up to it."""
    for i in range(len(sigmas) - 1):
        denoised = denoise(x, sigmas[i])
        sigma_down, sigma_up = ancestral_step(sigmas[i], sigmas[i + 1], eta)
        if sigma_down == 0:
            x = x + to_d(x, sigmas[i], denoised) * (sigma_down - sigmas[i])
        else:
            t, t_next = t_of(sigmas[i]), t_of(sigma_down)
            s = t + (t_next - t) / 2
            denoised_s = denoise(_first_order(x, denoised, t, s), sigma_of(s))
            x = _first_order(x, denoised_s, t, t_next)
        if sigmas[i + 1] > 0:
            x = x + noise(sigmas[i], sigmas[i + 1]) * s_noise * sigma_up
    return x


def sample_dpmpp_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseFunction,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 1 / 2,
) -> Tensor:
    """DPM-Solver++(2S) for the SDE: a noisy step to the point `r` of the interval, then the whole interval."""
    for i in range(len(sigmas) - 1):
        denoised = denoise(x, sigmas[i])
        if sigmas[i + 1] == 0:
            x = x + to_d(x, sigmas[i], denoised) * (sigmas[i + 1] - sigmas[i])
            continue
        t, t_next = t_of(sigmas[i]), t_of(sigmas[i + 1])
        s = t + (t_next - t) * r
        down, up = ancestral_step(sigma_of(t), sigma_of(s), eta)
        x_s = _first_order(x, denoised, t, t_of(down)) + noise(sigma_of(t), sigma_of(s)) * s_noise * up
        denoised_s = denoise(x_s, sigma_of(s))
        down, up = ancestral_step(sigma_of(t), sigma_of(t_next), eta)
        mixed = (1 - 1 / (2 * r)) * denoised + (1 / (2 * r)) * denoised_s
        x = _first_order(x, mixed, t, t_of(down)) + noise(sigma_of(t), sigma_of(t_next)) * s_noise * up
    return x


def _sde_noise(
    noise: NoiseFunction, sigma: Tensor, sigma_next: Tensor, h: Tensor, eta: float, s_noise: float
) -> Tensor | float:
    """What the SDE adds over a step of length h in t."""
    if not eta:
        return 0.0
    return noise(sigma, sigma_next) * sigma_next * (-2 * eta * h).expm1().neg().sqrt() * s_noise


def sample_dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseFunction,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: str = "midpoint",
) -> Tensor:
    """SDE-DPM-Solver++(2M). `solver_type` "midpoint" or "heun" says how the previous evaluation enters."""
    previous: Tensor | None = None
    h_previous: Tensor | None = None
    for i in range(len(sigmas) - 1):
        denoised = denoise(x, sigmas[i])
        if sigmas[i + 1] == 0:
            return denoised
        h = t_of(sigmas[i + 1]) - t_of(sigmas[i])
        h_eta = h * (eta + 1)
        x = sigmas[i + 1] / sigmas[i] * (-eta * h).exp() * x + (-h_eta).expm1().neg() * denoised
        if previous is not None and h_previous is not None:
            slope = (denoised - previous) / (h_previous / h)
            if solver_type == "heun":
                x = x + ((-h_eta).expm1().neg() / (-h_eta) + 1) * slope
            else:
                x = x + 0.5 * (-h_eta).expm1().neg() * slope
        x = x + _sde_noise(noise, sigmas[i], sigmas[i + 1], h, eta, s_noise)
        previous, h_previous = denoised, h
    return x


def sample_dpmpp_3m_sde(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, noise: NoiseFunction, eta: float = 1.0, s_noise: float = 1.0
) -> Tensor:
    """SDE-DPM-Solver++(3M): two previous evaluations give the first and second derivative."""
    history: list[tuple[Tensor, Tensor]] = []
    for i in range(len(sigmas) - 1):
        denoised = denoise(x, sigmas[i])
        if sigmas[i + 1] == 0:
            return denoised
        h = t_of(sigmas[i + 1]) - t_of(sigmas[i])
        h_eta = h * (eta + 1)
        x = (-h_eta).exp() * x + (-h_eta).expm1().neg() * denoised
        x = x + _multistep_correction(denoised, history, h, h_eta)
        x = x + _sde_noise(noise, sigmas[i], sigmas[i + 1], h, eta, s_noise)
        history = [(denoised, h), *history][:2]
    return x


def _multistep_correction(
    denoised: Tensor, history: list[tuple[Tensor, Tensor]], h: Tensor, h_eta: Tensor
) -> Tensor | float:
    """Second and third order terms from up to two earlier (evaluation, step length), newest first."""
    if not history:
        return 0.0
    phi_2 = h_eta.neg().expm1() / h_eta + 1
    denoised_1, h_1 = history[0]
    r0 = h_1 / h
    d1_0 = (denoised - denoised_1) / r0
    if len(history) == 1:
        return phi_2 * d1_0
    denoised_2, h_2 = history[1]
    r1 = h_2 / h
    d1_1 = (denoised_1 - denoised_2) / r1
    d2 = (d1_0 - d1_1) / (r0 + r1)
    phi_3 = phi_2 / h_eta - 0.5
    return phi_2 * (d1_0 + d2 * r0) - phi_3 * d2
