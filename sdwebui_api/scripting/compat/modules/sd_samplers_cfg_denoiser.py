"""`modules.sd_samplers_cfg_denoiser`: see `compat.samplers` for what may be replaced."""

from __future__ import annotations

from typing import Any

from sdwebui_api.scripting.compat.samplers import CFGDenoiser

__all__ = ["CFGDenoiser"]


def catenate_conds(conds: Any) -> Any:
    """Conditionings one below the other, tensors or dictionaries of tensors."""
    import torch

    if not isinstance(conds[0], dict):
        return torch.cat(conds)
    return {key: torch.cat([cond[key] for cond in conds]) for key in conds[0]}


def subscript_cond(cond: Any, a: int, b: int) -> Any:
    """Rows a to b of a conditioning."""
    return {key: rows[a:b] for key, rows in cond.items()} if isinstance(cond, dict) else cond[a:b]


def pad_cond(tensor: Any, repeats: int, empty: Any) -> Any:
    """[B, T, D] with the empty prompt [1, 77, D] behind it `repeats` times."""
    import torch

    if isinstance(tensor, dict):
        return {**tensor, "crossattn": pad_cond(tensor["crossattn"], repeats, empty)}
    return torch.cat([tensor, empty.repeat((tensor.shape[0], repeats, 1))], dim=1)
