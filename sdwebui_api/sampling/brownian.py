"""Brownian motion that remembers itself: noise of SDE samplers that depends on the seed and the sigmas alone.

A step from sigma to sigma' gets the increment of one fixed Brownian path between the two, so that half steps and
other step counts see the same path. The path is torchsde's `BrownianTree` (Li et al. 2020, "Scalable Gradients for
Stochastic Differential Equations") as k-diffusion uses it, one tree per image.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sdwebui_api.sampling.noise import create_generator, fresh_entropy

_DIGITS = 6
"""Times are resolved to a millionth: torchsde's default tolerance."""
_POOL_SIZE = 24
_REMEMBERED = 4
"""How many points of a path are kept: a second order step asks for three, the next one starts at the last."""


class BrownianTree:
    """A standard Brownian path on [t0, t1] with value 0 at t0, a tensor of `shape` at every time.

    The interval is halved until the wanted time is reached; the noise of every halving has its own seed, spawned from
    `entropy` and the place in the tree. Walking down from the root each time costs some 24 small draws and no
    memory; torchsde keeps the tree instead. Values equal torchsde's up to rounding. The walk happens where the random
    source draws, so that only its end is moved to `device`.
    """

    def __init__(
        self, t0: float, t1: float, shape: Sequence[int], entropy: int, *, source: str, device: torch.device
    ) -> None:
        self._start, self._end = round(t0, _DIGITS), round(t1, _DIGITS)
        self._shape = tuple(shape)
        self._entropy = entropy % 2**64  # numpy takes no negative seeds
        self._source = source
        self._device = device
        root = np.random.SeedSequence(self._entropy, pool_size=_POOL_SIZE)
        self._whole = self._randn(int(root.generate_state(3)[0])) * math.sqrt(t1 - t0)
        self._points: OrderedDict[float, Tensor] = OrderedDict()

    def increment(self, ta: float, tb: float) -> Tensor:
        """B(tb) - B(ta) for t0 <= ta <= tb <= t1; times outside are clamped."""
        return self._at(tb) - self._at(ta)

    def _at(self, t: float) -> Tensor:
        t = round(min(max(t, self._start), self._end), _DIGITS)
        if t not in self._points:
            self._points[t] = self._walk(t).to(self._device)
            if len(self._points) > _REMEMBERED:
                self._points.popitem(last=False)
        self._points.move_to_end(t)
        return self._points[t]

    def _walk(self, t: float) -> Tensor:
        start, end, increment = self._start, self._end, self._whole
        value = torch.zeros_like(increment)
        key, depth = 0, 0
        while start < t < end:
            middle = round(0.5 * (end + start), _DIGITS)
            left = self._left_half(start, middle, end, increment, key, depth)
            if t >= middle:
                value = value + left
                start, increment, key = middle, increment - left, 2 * key + 1
            else:
                end, increment, key = middle, left, 2 * key
            depth += 1
        return value + increment if t == end else value

    def _left_half(self, start: float, middle: float, end: float, increment: Tensor, key: int, depth: int) -> Tensor:
        """The increment over [start, middle] given that over [start, end]: a Brownian bridge."""
        seeds = np.random.SeedSequence(self._entropy, spawn_key=(key, depth), pool_size=_POOL_SIZE)
        noise = self._randn(int(seeds.generate_state(4)[0]))
        per_length = 1 / (end - start)
        left, right = middle - start, end - middle
        return left * increment * per_length + math.sqrt(left * right * per_length) * noise

    def _randn(self, seed: int) -> Tensor:
        return create_generator(seed, self._source, self._device).randn(self._shape)


class BrownianNoise:
    """Noise function of SDE samplers: unit normal noise for the step from `sigma` to `sigma_next`.

    Args:
        x: the latent batch `[B, C, h, w]`; its shape and device are used.
        sigmas: the schedule; the path spans its positive values.
        seeds: one per image.
        source: random source, see `noise.RandomSource`.
        per_image: False draws one path for the whole batch, seeded by the last image
            (option `no_dpmpp_sde_batch_determinism`).
    """

    def __init__(
        self, x: Tensor, sigmas: Tensor, seeds: Sequence[int], *, source: str = "CPU", per_image: bool = True
    ) -> None:
        t0, t1 = float(sigmas[sigmas > 0].min()), float(sigmas.max())
        shape = x.shape[1:] if per_image else x.shape
        entropies = list(seeds) if per_image else [fresh_entropy(seeds[-1])]
        self._trees = [BrownianTree(t0, t1, shape, seed, source=source, device=x.device) for seed in entropies]
        self._per_image = per_image

    def __call__(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        ta, tb = float(sigma), float(sigma_next)
        low, high, sign = (ta, tb, 1.0) if ta < tb else (tb, ta, -1.0)
        increments = [tree.increment(low, high) for tree in self._trees]
        total = torch.stack(increments) if self._per_image else increments[0]
        return total * sign / math.sqrt(high - low)
