"""Muon for the matrices inside the networks, AdamW for everything else, stepped as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.muon import Muon

# First and last layers and embedding tables are not maps between hidden spaces; Muon is not made for them.
_OUTER_LAYERS = (".conv_in.", ".conv_out.", "quant_conv.", "embeddings.", "auxiliary.")


class MuonWithAdamW:
    """`rates` are the peak learning rates of (Muon, AdamW); each step scales both."""

    def __init__(
        self, networks: Iterable[tuple[str, nn.Module]], rates: tuple[float, float], weight_decay: float = 0.02
    ) -> None:
        inner: list[Tensor] = []
        outer: list[Tensor] = []
        for prefix, network in networks:
            for name, parameter in network.named_parameters():
                if not parameter.requires_grad:
                    continue
                edge = any(layer in f"{prefix}.{name}" for layer in _OUTER_LAYERS)
                (outer if parameter.ndim < 2 or edge else inner).append(parameter)
        self.parameters = inner + outer
        self._optimizers = (
            Muon(inner, weight_decay=weight_decay),
            torch.optim.AdamW([{"params": outer}], betas=(0.9, 0.99), weight_decay=0.0),
        )
        self._rates = rates

    def step(self, loss: Tensor, factor: float) -> None:
        """Differentiate `loss`, clip the gradient's norm to 1 and take a step at `factor` times the peak rates.

        Raises FloatingPointError when the loss is not finite: the parameters are then still those before the step.
        """
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the training loss became {loss.item()}")
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, rate in zip(self._optimizers, self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self._optimizers[0].state_dict(), "adamw": self._optimizers[1].state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimizers[0].load_state_dict(state["muon"])
        self._optimizers[1].load_state_dict(state["adamw"])
