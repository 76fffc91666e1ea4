"""Philox 4x32-10 with Box-Muller: the normal numbers `torch.randn` draws on an NVIDIA GPU.

Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011). Thread i of CUDA's kernel uses the counter
(offset, 0, i, 0), so element i of a tensor needs nothing but i: the result is the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = 0x9E3779B9
_WEYL_1 = 0xBB67AE85
_MASK = 0xFFFFFFFF
_ROUNDS = 10

# curand rounds these constants to float32 before it multiplies.
_TO_UNIT = float(np.float32(2.0**-32))
_TO_ANGLE = float(np.float32(2.0**-32 * 2.0 * math.pi))

Words = NDArray[np.uint32]


def philox4x32(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Ten rounds of the bijection on four arrays of 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    shift = np.uint64(32)
    for _ in range(_ROUNDS):
        product_0 = c0.astype(np.uint64) * _MULTIPLIER_0
        product_1 = c2.astype(np.uint64) * _MULTIPLIER_1
        high_0, low_0 = (product_0 >> shift).astype(np.uint32), product_0.astype(np.uint32)
        high_1, low_1 = (product_1 >> shift).astype(np.uint32), product_1.astype(np.uint32)
        c0, c1, c2, c3 = high_1 ^ c1 ^ np.uint32(k0), low_1, high_0 ^ c3 ^ np.uint32(k1), low_0
        k0, k1 = (k0 + _WEYL_0) & _MASK, (k1 + _WEYL_1) & _MASK
    return c0, c1, c2, c3


def box_muller(x: Words, y: Words) -> NDArray[np.float32]:
    """Uniform 32-bit words to one standard normal number each."""
    radius = np.sqrt(-2.0 * np.log(x * _TO_UNIT + _TO_UNIT / 2))
    angle = y * _TO_ANGLE + _TO_ANGLE / 2
    return (radius * np.sin(angle)).astype(np.float32)


class PhiloxGenerator:
    """One stream of normal tensors; each call advances the offset by one, as a CUDA generator does.

    Equal to CUDA for tensors of up to about half a million elements (one thread per element).
    """

    def __init__(self, seed: int) -> None:
        self._key = (seed & _MASK, (seed >> 32) & _MASK)
        self._offset = 0

    def randn(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """The next tensor of the stream."""
        count = math.prod(shape)
        zeros = np.zeros(count, dtype=np.uint32)
        offset = np.full(count, self._offset, dtype=np.uint32)
        self._offset += 1
        words = philox4x32((offset, zeros, np.arange(count, dtype=np.uint32), zeros), self._key)
        return box_muller(words[0], words[1]).reshape(tuple(shape))
