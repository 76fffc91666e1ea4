"""Attention in float32 whatever the precision of the network, as A1111's option `upcast_attn` has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from sdwebui_api.engine.attention import attend_by_products


class _UpcastAttention(TorchFunctionMode):
    """Reaches every attention of this thread, whichever processor calls it."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function not in (scaled_dot_product_attention, attend_by_products):
            return function(*args, **(kwargs or {}))
        dtype = args[0].dtype
        return function(*map(_float, args), **{name: _float(value) for name, value in (kwargs or {}).items()}).to(dtype)


def _float(value: Any) -> Any:
    """Queries, keys, values and an additive mask; a boolean mask and plain numbers stay."""
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def upcast_attention(wanted: bool, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Forward passes inside compute their attention in float32. Does nothing to a network that is in float32."""
    return _UpcastAttention() if wanted and dtype != torch.float32 else nullcontext()
