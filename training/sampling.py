"""Drawing with the networks that training makes, to see what they have learned."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from training.models import TIMESTEPS, alphas_cumprod


def ddim(predict: Callable[[Tensor, Tensor], Tensor], x: Tensor, steps: int, guidance: float) -> Tensor:
    """Latents [B, 4, h, w] from noise `x` of that shape (Song et al., arXiv:2010.02502, eta 0).

    `predict` gives the eps of latents [2B, 4, h, w] at timesteps [2B]: first those with their prompts, then those
    with the negative ones.
    """
    signal = alphas_cumprod().float()
    times = [TIMESTEPS // steps * i + 1 for i in reversed(range(steps))]
    for time, following in zip(times, [*times[1:], 0], strict=True):
        now, then = signal[time], signal[following]
        both = predict(torch.cat([x, x]), torch.full((2 * len(x),), time, device=x.device)).float()
        conditional, unconditional = both.chunk(2)
        noise = unconditional + guidance * (conditional - unconditional)
        clean = (x - (1 - now).sqrt() * noise) / now.sqrt()
        x = then.sqrt() * clean + (1 - then).sqrt() * noise
    return x
