"""The feed-forward layers of transformer blocks on a CPU: with less memory, and less of it written and read."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sdwebui_api.engine.libraries import IMPORTING

SLICE_BYTES = 16 * 2**20
"""Of what the first layer makes at a time; all of it is 42 MB in SD1.5's first block at 512x512."""
SLICE_ROWS = 2048
"""Rows at the least: products of fewer are slower."""


def keep_feed_forwards_small(module: nn.Module) -> None:
    """Let the gated feed-forward layers of a diffusers network take the tokens in slices, and gate in place."""
    with IMPORTING:
        from diffusers.models.activations import GEGLU
        from diffusers.models.attention import FeedForward
    for layer in module.modules():
        if type(layer) is FeedForward:
            steps = list(layer.get_submodule("net").children())
            if len(steps) == 3 and type(steps[0]) is GEGLU:
                layer.__class__ = SlicedFeedForward


class SlicedFeedForward(nn.Module):
    """What diffusers' FeedForward with a GEGLU (Shazeer 2020, arXiv 2002.05202) computes. Rows do not know each other.

    net: the GEGLU, a dropout that does nothing outside of training, the layer behind them.
    """

    net: nn.ModuleList

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., C] -> [..., C']."""
        if self.training or (torch.is_grad_enabled() and hidden_states.requires_grad):
            for layer in self.net:
                hidden_states = layer(hidden_states)
            return hidden_states
        gated, _, last = self.net
        rows = hidden_states.flatten(0, -2)
        parts = [last(_gated(gated, part)) for part in rows.split(_rows_at_a_time(rows, gated))]
        found = parts[0] if len(parts) == 1 else torch.cat(parts)
        return found.view(*hidden_states.shape[:-1], -1)


def _rows_at_a_time(rows: Tensor, gated: Any) -> int:
    """Of slices of about the same size."""
    most = max(SLICE_BYTES // (gated.proj.out_features * rows.element_size()), SLICE_ROWS)
    slices = max(math.ceil(len(rows) / most), 1)
    return max(math.ceil(len(rows) / slices), 1)


def _gated(layer: Any, rows: Tensor) -> Tensor:
    """`GEGLU.forward` without new memory for every step. GELU takes half the time where the numbers lie together."""
    hidden, gate = layer.proj(rows).chunk(2, dim=-1)
    gate = torch.ops.aten.gelu_(gate.contiguous())
    return gate.mul_(hidden)
