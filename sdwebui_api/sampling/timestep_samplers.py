"""Samplers in DDPM's own terms: eps prediction at integer timesteps, variance preserving latents.

All open with `(predict_eps, x, timesteps, *, alphas_cumprod, …)`: `timesteps` rises, sampling walks it backwards.
`x` `[B, C, h, w]` is sqrt(alpha_bar) * image + sqrt(1 - alpha_bar) * noise. As in A1111's
`sd_samplers_timesteps_impl.py`, the first timestep is not evaluated: it is where the last step lands from the second.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdwebui_api.sampling.noise import NoiseFunction

PredictEps = Callable[[Tensor, Tensor], Tensor]
"""(x `[B, C, h, w]`, timestep as a 0-d tensor on the CPU) -> predicted noise, guidance included."""


class _Coefficients:
    """alpha_bar at the timesteps and one timestep back. The first one steps to timestep 0."""

    def __init__(self, alphas_cumprod: Tensor, timesteps: Tensor, eta: float = 0.0) -> None:
        given = alphas_cumprod.detach().cpu()
        alphas = given.float().double()
        steps = timesteps.cpu().long()
        self.alpha = alphas[steps]
        self.noise_share = (1 - given[steps]).sqrt().double()  # rounded as what is given, float16 at times
        self.alpha_previous = alphas[torch.cat([steps.new_zeros(1), steps[:-1]])]
        ratio = (1 - self.alpha_previous) / (1 - self.alpha) * (1 - self.alpha / self.alpha_previous)
        self.sigma = eta * ratio.clamp(min=0).sqrt()

    def predicted_image(self, x: Tensor, eps: Tensor, i: int) -> Tensor:
        return (x - float(self.noise_share[i]) * eps) / float(self.alpha[i]) ** 0.5

    def step_back(self, image: Tensor, direction: Tensor, i: int) -> Tensor:
        """DDIM, equation 12, without its noise."""
        previous, sigma = float(self.alpha_previous[i]), float(self.sigma[i])
        return previous**0.5 * image + (1.0 - previous - sigma**2) ** 0.5 * direction


def sample_ddim(
    predict_eps: PredictEps,
    x: Tensor,
    timesteps: Tensor,
    *,
    alphas_cumprod: Tensor,
    noise: NoiseFunction,
    eta: float = 0.0,
) -> Tensor:
    """Song et al. 2020, "Denoising Diffusion Implicit Models", equation 12."""
    terms = _Coefficients(alphas_cumprod, timesteps, eta)
    for i in range(len(timesteps) - 1, 0, -1):
        eps = predict_eps(x, timesteps[i])
        x = terms.step_back(terms.predicted_image(x, eps, i), eps, i)
        x = x + float(terms.sigma[i]) * noise(timesteps[i], timesteps[i - 1])
    return x


def sample_ddim_cfgpp(
    predict_eps: PredictEps,
    x: Tensor,
    timesteps: Tensor,
    *,
    alphas_cumprod: Tensor,
    noise: NoiseFunction,
    unconditional_eps: Callable[[], Tensor],
    eta: float = 0.0,
) -> Tensor:
    """Chung et al. 2024, "CFG++": the image is guided, the direction back is the unconditional noise.

    `unconditional_eps()` is the unconditional part of the last prediction. The guidance scale is interpreted by the
    caller (`samplers.Sampler.cfg_multiplier`).
    """
    terms = _Coefficients(alphas_cumprod, timesteps, eta)
    for i in range(len(timesteps) - 1, 0, -1):
        eps = predict_eps(x, timesteps[i])
        x = terms.step_back(terms.predicted_image(x, eps, i), unconditional_eps(), i)
        x = x + float(terms.sigma[i]) * noise(timesteps[i], timesteps[i - 1])
    return x


def sample_plms(predict_eps: PredictEps, x: Tensor, timesteps: Tensor, *, alphas_cumprod: Tensor) -> Tensor:
    """Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models" (PLMS)."""
    terms = _Coefficients(alphas_cumprod, timesteps)

    def back(eps: Tensor, i: int) -> Tensor:
        return terms.step_back(terms.predicted_image(x, eps, i), eps, i)

    history: list[Tensor] = []
    for i in range(len(timesteps) - 1, 0, -1):
        eps = predict_eps(x, timesteps[i])
        if not history:
            # The first step has no history: a pseudo improved Euler step, at the cost of one more evaluation.
            combined = (eps + predict_eps(back(eps, i), timesteps[i - 1])) / 2
        else:
            combined = _adams_bashforth([eps, *history])
        x = back(combined, i)
        history = [eps, *history][:3]
    return x


def _adams_bashforth(eps: list[Tensor]) -> Tensor:
    """Linear multistep of order 2 to 4 over predictions, newest first."""
    weights = {2: (3, -1), 3: (23, -16, 5), 4: (55, -59, 37, -9)}[len(eps)]
    total = sum(weight * e for weight, e in zip(weights, eps, strict=True))
    return torch.as_tensor(total) / sum(weights)


def ddim_timesteps(steps: int, *, total: int = 1000) -> Tensor:
    """Rising timesteps 1, 1 + stride, … below `total`; stride `total // steps`, so there may be more than `steps`.

    A1111 1.10 spaces them evenly whatever the option `ddim_discretize` says.
    """
    stride = max(total // steps, 1)
    return torch.clip(torch.arange(0, total, stride) + 1, 0, total - 1)
