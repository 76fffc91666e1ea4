"""One block of memory for many tensors: many small ones would each cost the system's favour, and cannot be pinned one
by one without waste."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes; the width of a vector register and of a cache line."""


PINNED = 256 * 2**20
"""Bytes pinned at a time. torch rounds each request up to a power of two: SDXL's UNet of 5.1 GB would take 8."""

log = logging.getLogger(__name__)


class Block:
    """Gives its memory away piece by piece."""

    def __init__(self, size: int, device: torch.device, *, pinned: bool = False) -> None:
        """`size`: bytes, of all that will be taken. `pinned`: RAM that a GPU reads by itself, where there is a GPU."""
        self._device = device
        self._pinned = pinned and device.type == "cpu" and torch.cuda.is_available()
        self._wanted = size
        self._free = torch.empty(0, dtype=torch.uint8, device=device)

    def take(self, size: int) -> Tensor:
        """uint8 [size], at the begin of a cache line. Raises what running out of memory raises."""
        room = _aligned(size)
        if room > len(self._free):
            self._free = self._memory(max(room, min(self._wanted, PINNED) if self._pinned else self._wanted))
        self._wanted -= room
        taken, self._free = self._free[:size], self._free[room:]
        return taken

    def _memory(self, size: int) -> Tensor:
        if self._pinned:
            try:
                return torch.empty(size, dtype=torch.uint8, pin_memory=True)
            except RuntimeError as error:  # the driver's: under WSL, for example, half of the RAM can be pinned
                self._pinned = False
                log.warning("weights in RAM come to the GPU more slowly, for no more memory can be pinned: %s", error)
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def like(self, tensor: Tensor) -> Tensor:
        """Shaped, typed and laid out in memory like `tensor`, not filled."""
        taken = self.take(tensor.nbytes)
        return taken.view(tensor.dtype).as_strided(tensor.shape, _dense_strides(tensor))


def room_for(tensor: Tensor) -> int:
    """Bytes of a block that it takes."""
    return _aligned(tensor.nbytes)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _dense_strides(tensor: Tensor) -> tuple[int, ...]:
    """Its own where it is dense. 1x1 convolutions fit both layouts, and by their strides cuDNN decides which it is."""
    if tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)):
        return tensor.stride()
    return tuple(math.prod(tensor.shape[axis + 1 :]) for axis in range(tensor.ndim))
