"""One block of memory for many tensors: many small ones would each cost the system's favour, and cannot be pinned one
by one without waste."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes; the width of a vector register and of a cache line."""


class Block:
    """Gives its memory away piece by piece."""

    def __init__(self, size: int, device: torch.device, *, pinned: bool = False) -> None:
        """`pinned`: RAM that a GPU reads by itself, where there is a GPU."""
        pinned = pinned and device.type == "cpu" and torch.cuda.is_available()
        self._free = torch.empty(size, dtype=torch.uint8, device=device, pin_memory=pinned)

    def like(self, tensor: Tensor) -> Tensor:
        """Shaped, typed and laid out in memory like `tensor`, not filled."""
        taken, self._free = self._free[: tensor.nbytes], self._free[room_for(tensor) :]
        return taken.view(tensor.dtype).as_strided(tensor.shape, _dense_strides(tensor))


def room_for(tensor: Tensor) -> int:
    """Bytes of a block that it takes."""
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def _dense_strides(tensor: Tensor) -> tuple[int, ...]:
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        _, channels, height, width = tensor.shape
        return (channels * height * width, 1, width * channels, channels)
    return tuple(math.prod(tensor.shape[axis + 1 :]) for axis in range(tensor.ndim))
