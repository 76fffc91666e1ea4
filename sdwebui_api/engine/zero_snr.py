"""Noise schedules that end in pure noise."""

from __future__ import annotations

from torch import Tensor

LAST_ALPHA_BAR = 4.8973451890853435e-08
"""What A1111 puts in place of an alpha_bar of zero, whose sigma would be infinite."""


def rescale_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """alpha_bar `[T]` rescaled so that the last timestep is (all but) pure noise. Lin et al. 2023, algorithm 1.

    One that ends there already stays as it is.
    """
    if float(alphas_cumprod[-1]) <= LAST_ALPHA_BAR:
        return alphas_cumprod
    roots = alphas_cumprod.sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    rescaled = ((roots - last) * (first / (first - last))) ** 2
    rescaled[-1] = LAST_ALPHA_BAR
    return rescaled
