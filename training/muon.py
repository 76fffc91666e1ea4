"""Muon: momentum whose matrices are orthogonalised before they are applied.

Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the update's scale
0.2 * sqrt(max(rows, columns)) matches AdamW's RMS as in Liu et al., "Muon is Scalable for LLM Training"
(arXiv:2502.16982). torch.optim.Muon takes 2-D parameters only; most of ours are convolutions, which we flatten
to [out, in * kh * kw], and we orthogonalise equally shaped matrices as one batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Roughly U V^T of each matrix's singular value decomposition.

    `matrices` is [n, rows, columns]; returns float32 of the same shape, singular values between about 0.7 and 1.2.
    """
    a, b, c = _QUINTIC
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).bfloat16()
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """For parameters of two or more dimensions that are neither embeddings nor the first or last layer."""

    def __init__(
        self, params: Iterable[Tensor], lr: float = 2e-3, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    rows = parameter.shape[0]
                    by_shape[rows, parameter.numel() // rows].append(parameter)
            for shape, parameters in by_shape.items():
                self._update(group, shape, parameters)

    def _update(self, group: dict, shape: tuple[int, int], parameters: list[Tensor]) -> None:
        directions = [self._direction(parameter, shape, group["momentum"]) for parameter in parameters]
        scale = 0.2 * max(shape) ** 0.5 * group["lr"]
        for parameter, update in zip(parameters, orthogonalised(torch.stack(directions)), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.reshape(parameter.shape), alpha=-scale)

    def _direction(self, parameter: Tensor, shape: tuple[int, int], momentum: float) -> Tensor:
        assert parameter.grad is not None
        gradient = parameter.grad.reshape(shape)
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return torch.lerp(gradient, state["momentum"], momentum)  # Nesterov
