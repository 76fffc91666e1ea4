"""Seamless pictures: convolutions that wrap around the edges while one forward pass runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def wrapped_edges(module: nn.Module, enabled: bool) -> Iterator[None]:
    """Circular padding in every Conv2d of `module` (A1111 sd_hijack.py, `apply_circular`).

    Hold the device meanwhile: the module's state is changed, and restored on the way out.
    """
    if not enabled:
        yield
        return
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions:
        layer.padding_mode = "circular"
    try:
        yield
    finally:
        for layer in convolutions:
            layer.padding_mode = "zeros"
