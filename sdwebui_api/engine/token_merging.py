"""Token merging for Stable Diffusion (Bolya & Hoffman 2023, arXiv 2303.17604): attention over fewer tokens.

Neighbours that look alike attend as one. As in the paper, and as A1111 uses it: in the self-attentions of the largest
resolution only, the destinations the first of every 2x2 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

STRIDE = 2


@dataclass(frozen=True)
class Merge:
    """Which tokens of each row become part of which. All hold token numbers.

    sources [1, N - M] and destinations [1, M] share the N tokens out; of the sources (by position there) `kept`
    [B, K] stay, `merged` [B, R] go into the destinations (by position) `into` [B, R].
    """

    sources: Tensor
    destinations: Tensor
    kept: Tensor
    merged: Tensor
    into: Tensor

    def merge(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N - R, C]: the kept sources, then the destinations, each the mean of all it holds."""
        sources, destinations = x[:, self.sources[0]], x[:, self.destinations[0]]
        into = self.into[:, :, None].expand(-1, -1, x.shape[-1])
        found = destinations.scatter_reduce(1, into, _pick(sources, self.merged), reduce="mean")
        return torch.cat([_pick(sources, self.kept), found], dim=1)

    def unmerge(self, x: Tensor) -> Tensor:
        """[B, N - R, C] -> [B, N, C]: what was merged gets what its destination got."""
        kept, destinations = x[:, : self.kept.shape[1]], x[:, self.kept.shape[1] :]
        sources = x.new_empty(x.shape[0], self.sources.shape[1], x.shape[-1])
        _put(sources, self.kept, kept)
        _put(sources, self.merged, _pick(destinations, self.into))
        whole = x.new_empty(x.shape[0], self.sources.shape[1] + self.destinations.shape[1], x.shape[-1])
        whole[:, self.sources[0]], whole[:, self.destinations[0]] = sources, destinations
        return whole


def _pick(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[-1]))


def _put(target: Tensor, index: Tensor, x: Tensor) -> None:
    target.scatter_(1, index[:, :, None].expand(-1, -1, x.shape[-1]), x)


def plan_merge(x: Tensor, size: tuple[int, int], ratio: float) -> Merge:
    """Merge the `ratio` of the tokens `x` [B, h * w, C] that are most like a destination; `size`: (h, w)."""
    sources, destinations = _shared_out(size, x.device)
    alike = torch.nn.functional.normalize(x, dim=-1)
    scores, into = (alike[:, sources[0]] @ alike[:, destinations[0]].transpose(1, 2)).max(dim=-1)
    order = scores.argsort(dim=-1, descending=True)
    count = min(sources.shape[1], int(x.shape[1] * ratio))
    merged = order[:, :count]
    return Merge(sources, destinations, kept=order[:, count:], merged=merged, into=into.gather(1, merged))


def _shared_out(size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token numbers of sources and destinations; rows and columns that fill no whole cell have no destination."""
    height, width = size
    first = torch.zeros(height, width, dtype=torch.bool, device=device)
    first[: height // STRIDE * STRIDE : STRIDE, : width // STRIDE * STRIDE : STRIDE] = True
    numbers = torch.arange(height * width, device=device)
    return numbers[~first.flatten()][None], numbers[first.flatten()][None]


@contextmanager
def merging_tokens(unet: Any, ratio: float, size: tuple[int, int]) -> Iterator[None]:
    """Within the context the UNet merges the `ratio` of its tokens (0: none) for latents of `size` (h, w).

    Hold the device meanwhile. Latents too small for a cell are left alone.
    """
    if ratio <= 0 or min(size) < STRIDE:
        yield
        return
    blocks = [block for part in (unet.down_blocks[0], unet.up_blocks[-1]) for block in _blocks(part)]
    plain = [block.attn1.__dict__.get("forward") for block in blocks]
    hooks = [_hang_in(block, ratio, size) for block in blocks]
    try:
        yield
    finally:
        for hook, block, forward in zip(hooks, blocks, plain, strict=True):
            hook.remove()
            if forward is None:
                del block.attn1.forward
            else:
                block.attn1.forward = forward


def _blocks(part: nn.Module) -> Iterator[Any]:
    """The transformer blocks inside, told by what they have."""
    return (module for module in part.modules() if hasattr(module, "attn1") and hasattr(module, "norm1"))


def _hang_in(block: Any, ratio: float, size: tuple[int, int]) -> Any:
    """Plan from what the block is given, merge what its self-attention gets. The handle of the block's hook."""
    plans: list[Merge] = []

    def plan(_block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        tokens = inputs[0] if inputs else named["hidden_states"]
        plans[:] = [plan_merge(tokens, size, ratio)] if tokens.shape[1] == size[0] * size[1] else []

    block.attn1.forward = partial(_attend_merged, block.attn1.forward, plans)
    return block.register_forward_pre_hook(plan, with_kwargs=True)


def _attend_merged(
    attend: Callable[..., Tensor], plans: list[Merge], hidden_states: Tensor, *more: Any, **named: Any
) -> Tensor:
    if not plans:
        return attend(hidden_states, *more, **named)
    return plans[0].unmerge(attend(plans[0].merge(hidden_states), *more, **named))
