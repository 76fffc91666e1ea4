"""The noise that a picture would have come from: Euler's method run backwards, from the latent to noise.

A1111's `scripts/img2imgalt.py` calls this decoding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdwebui_api.sampling.model import SigmaModel


def noise_of(
    model: SigmaModel,
    latent: Tensor,
    cond: Tensor,
    uncond: Tensor,
    cfg_scale: float,
    steps: int,
    *,
    concat: Tensor | None = None,
    adjust_sigmas: bool = False,
    on_step: Callable[[int], bool] | None = None,
) -> Tensor:
    """`[B, 4, h, w]` of about unit variance, from which sampling with the same prompt leads to `latent`.

    cond, uncond: `[B, T, D]` of the original prompts. adjust_sigmas: evaluate at the lower end of every step and
    divide by the last sigma instead of by the deviation. on_step: called with the number of steps done; a true
    answer ends it early.
    """
    sigmas = model.table.evenly_spaced(steps).flip(0).to(latent)
    x = latent
    for index in range(1, len(sigmas)):
        level = sigmas[index - 1] if adjust_sigmas else sigmas[index]
        if level > 0:  # at 0 the picture is its own prediction: nothing would change
            guided = _guided(model, x, level, cond, uncond, cfg_scale, concat)
            x = x + (x - guided) / level * (sigmas[index] - sigmas[index - 1])
        if on_step is not None and on_step(index):
            break
    return x / (sigmas[-1] if adjust_sigmas else x.std())


def _guided(
    model: SigmaModel,
    x: Tensor,
    level: Tensor,
    cond: Tensor,
    uncond: Tensor,
    cfg_scale: float,
    concat: Tensor | None,
) -> Tensor:
    levels = level.expand(len(x))
    if cond.shape == uncond.shape:
        double = None if concat is None else torch.cat([concat, concat])
        both = model.predict(torch.cat([x, x]), torch.cat([levels, levels]), torch.cat([uncond, cond]), double)
        without, with_prompt = both.chunk(2)
    else:
        without = model.predict(x, levels, uncond, concat)
        with_prompt = model.predict(x, levels, cond, concat)
    return without + (with_prompt - without) * cfg_scale
