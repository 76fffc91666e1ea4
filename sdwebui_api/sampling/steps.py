"""Small formulas that samplers share, in the notation of Karras et al. 2022."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x `[B, C, h, w]`, sigma as a 0-d tensor on the CPU) -> the denoised latent, of x's shape."""


def to_d(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """dx/dsigma of the probability flow ODE."""
    return (x - denoised) / sigma


def ancestral_step(sigma: Tensor, sigma_next: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """(sigma_down, sigma_up): step down to the first deterministically, then add noise of the second.

    eta 0 adds none; eta 1 is the full ancestral step.
    """
    if not eta:
        return sigma_next, torch.zeros_like(sigma_next)
    full = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
    sigma_up = torch.minimum(sigma_next, eta * full)
    return (sigma_next**2 - sigma_up**2) ** 0.5, sigma_up


def t_of(sigma: Tensor) -> Tensor:
    """DPM-Solver's time: t = -log sigma (half the log-SNR)."""
    return sigma.log().neg()


def sigma_of(t: Tensor) -> Tensor:
    """The inverse of `t_of`."""
    return t.neg().exp()
