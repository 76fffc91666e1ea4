"""How the networks compute attention, where torch's fused kernel is not the fastest.

On a CPU torch's flash kernel splits the work into many small products whose overhead exceeds what they save: bf16 on
Zen 4, SD1.5 at 512x512, 4096 tokens and heads of 40 channels, 63 GFLOPS against 88 of plain products over slices of
queries; 1024 tokens 62 against 88, heads of 160 channels 54 against 96.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from sdwebui_api.engine.libraries import IMPORTING

SLICE_BYTES = 8 * 2**20
"""Scores held at a time; slices of this size stay in the last cache of a server's CPU."""

SLICE_HEADS = 4
"""Heads in such a slice: of few heads it has many queries each, which makes larger products. 4096 tokens took 239 ms,
and 264 ms with all 16 (two prompts) in slices of 32 MiB; one or two heads were no better (two Zen 4 cores)."""


def use_attention(module: Any, attention: str) -> None:
    """Set how a diffusers UNet or ControlNet attends: `sdpa` (as it comes), `xformers` or `products`."""
    if attention == "xformers":
        module.enable_xformers_memory_efficient_attention()
    elif attention == "products":
        module.set_attn_processor(ProductsProcessor())


def attend_alike(module: Any, unet: Any) -> None:
    """Let a ControlNet attend as `unet` does."""
    if any(isinstance(processor, ProductsProcessor) for processor in unet.attn_processors.values()):
        module.set_attn_processor(ProductsProcessor())


class ProductsProcessor:
    """`attend_by_products` for the plain attentions of a UNet; diffusers' own way for anything else."""

    def __init__(self) -> None:
        with IMPORTING:
            from diffusers.models.attention_processor import AttnProcessor2_0
        self._own: Any = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """hidden_states [B, L, C], encoder_hidden_states [B, S, C'] -> [B, L, C]."""
        if attention_mask is not None or hidden_states.ndim != 3 or not _is_plain(attn):
            found: Tensor = self._own(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
            return found
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen)
        output: Tensor = attn.to_out[0](attend_by_products(query, key, value, attn.heads))
        return output


def _is_plain(attn: Any) -> bool:
    """No norms inside, no residual, no rescaling; what `BasicTransformerBlock` uses."""
    norms = (attn.spatial_norm, attn.group_norm, attn.norm_cross, attn.norm_q, attn.norm_k)
    return not any(norms) and not attn.residual_connection and attn.rescale_output_factor == 1


def attend_by_products(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Softmax attention of `heads` heads, scaled by the root of their width; query [B, L, C], key and value [B, S, C].

    Scores are rounded to the tensors' precision. A torch function mode sees this as one function.
    """
    if has_torch_function_unary(query):
        found: Tensor = handle_torch_function(attend_by_products, (query,), query, key, value, heads)
        return found
    batch = query.shape[0]
    query, key, value = (_by_head(tensor, heads) for tensor in (query, key, value))
    rows, length, width = query.shape
    output = torch.empty_like(query)
    together, step = _slice(rows, length, key.shape[1] * query.element_size())
    # One place for the scores of all slices; none where their derivatives are wanted, which need what they were.
    room = None if _differentiated(query, key, value) else query.new_empty(together * step * key.shape[1])
    for first in range(0, rows, together):
        some = slice(first, first + together)
        for start in range(0, length, step):
            part = query[some, start : start + step]
            scores = _probabilities(part, key[some], width**-0.5, room)
            output[some, start : start + step] = torch.bmm(scores, value[some])
    return output.reshape(batch, heads, length, width).transpose(1, 2).reshape(batch, length, heads * width)


def _slice(rows: int, length: int, query_bytes: int) -> tuple[int, int]:
    """(how many of `rows` heads, how many of `length` queries) are computed at a time; bytes of one query's scores."""
    if rows * length * query_bytes <= SLICE_BYTES:
        return rows, length
    together = min(max(SLICE_HEADS, torch.get_num_threads()), rows)
    return together, min(max(SLICE_BYTES // (together * query_bytes), 1), length)


def _differentiated(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _probabilities(query: Tensor, key: Tensor, scale: float, room: Tensor | None) -> Tensor:
    """Softmax of query [N, L, C] times key [N, S, C], scaled: [N, L, S], computed in `room` where there is one."""
    shape = (query.shape[0], query.shape[1], key.shape[1])
    nothing, keys = query.new_empty(1), key.transpose(1, 2)
    if room is None:
        return torch.baddbmm(nothing, query, keys, beta=0, alpha=scale).softmax(dim=-1)
    scores = room[: shape[0] * shape[1] * shape[2]].view(shape)
    torch.baddbmm(nothing, query, keys, beta=0, alpha=scale, out=scores)
    return torch.softmax(scores, dim=-1, out=scores)


def _by_head(tensor: Tensor, heads: int) -> Tensor:
    """[B, T, C] -> [B * heads, T, C / heads], contiguous."""
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1)
