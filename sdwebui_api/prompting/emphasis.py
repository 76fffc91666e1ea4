"""What the weights of a prompt do to the text encoder's output (option `emphasis`).

As A1111's `sd_emphasis`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def apply_emphasis(z: Tensor, multipliers: Tensor, mode: str, counts: Sequence[int] | None = None) -> Tensor:
    """`z` [B, T, D] with each token's vector times its multiplier [B, T].

    "Original" then restores the mean of the whole tensor, so texts that are encoded together influence each other.
    `counts` says how often each row stands for in that mean (a text that several steps of a prompt schedule share is
    encoded once). "None" and "Ignore" leave `z` as it is; any unknown mode is "Original", as in A1111.
    """
    if mode in ("None", "Ignore"):
        return z
    weighted = z * multipliers.to(z).unsqueeze(-1)
    if mode == "No norm":
        return weighted
    ratio = _mean(z, counts) / _mean(weighted, counts)
    # A mean of exactly zero has no ratio; A1111 fails with NaN there.
    return weighted * ratio if bool(torch.isfinite(ratio)) else weighted


def _mean(z: Tensor, counts: Sequence[int] | None) -> Tensor:
    if counts is None or all(count == 1 for count in counts):
        return z.mean()
    weights = torch.tensor(counts, dtype=torch.float64, device=z.device)
    rows = z.mean(dim=(1, 2), dtype=torch.float32).double()
    return ((rows * weights).sum() / weights.sum()).to(z.dtype)
