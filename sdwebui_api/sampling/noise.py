"""Where random numbers come from: three sources, and the per-image noise of one batch.

Every image of a batch has a generator of its own, so that an image does not depend on the batch it was made in.
Behaviour follows A1111's `modules/rng.py` (`ImageRNG`) and `modules/rng_philox.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from sdwebui_api.sampling.philox import PhiloxGenerator

RandomSource = Literal["CPU", "GPU", "NV"]
"""CPU: torch on the CPU, moved. GPU: torch on the device. NV: what an NVIDIA GPU draws, computed anywhere."""

LATENT_SCALE = 8
"""Pixels per latent cell; seed-resize sizes are given in pixels."""

NoiseFunction = Callable[[Tensor, Tensor], Tensor]
"""(sigma, sigma_next) -> unit normal noise of the latent batch's shape, for the step between the two."""


class NormalGenerator(Protocol):
    """A stream of standard normal tensors."""

    def randn(self, shape: Sequence[int]) -> Tensor:
        """The next tensor of the stream, float32."""


def seeded_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """torch's generator of any `seed`: it knows 64 bits, which negative seeds and the last ones of a batch exceed."""
    return torch.Generator(device).manual_seed(seed % 2**64)


class TorchGenerator:
    """torch's own generator on `device`."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        self._generator = seeded_generator(seed, device)

    def randn(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self._generator, device=self._device)


class NvidiaGenerator:
    """The numbers `torch.randn` draws on CUDA, on any device."""

    def __init__(self, seed: int) -> None:
        self._philox = PhiloxGenerator(seed)

    def randn(self, shape: Sequence[int]) -> Tensor:
        return torch.from_numpy(self._philox.randn(shape))


def create_generator(seed: int, source: str, device: torch.device) -> NormalGenerator:
    """A fresh generator of `seed`. Unknown sources draw on `device`, as A1111 does."""
    seed = int(seed)
    if source == "NV":
        return NvidiaGenerator(seed)
    if source == "CPU" or device.type == "mps":
        return TorchGenerator(seed, torch.device("cpu"))
    return TorchGenerator(seed, device)


def slerp(weight: float, low: Tensor, high: Tensor) -> Tensor:
    """Spherical interpolation of two noises `[C, h, w]` over their rows, `weight` in [0, 1] towards `high`.

    Nearly parallel noises are mixed linearly; A1111 swaps the weights there (`rng.slerp`), and so do we.
    """
    low_direction = low / torch.norm(low, dim=1, keepdim=True)
    high_direction = high / torch.norm(high, dim=1, keepdim=True)
    cosine = (low_direction * high_direction).sum(1)
    if cosine.mean() > 0.9995:
        return low * weight + high * (1 - weight)
    omega = torch.acos(cosine)
    sine = torch.sin(omega)
    low_share = (torch.sin((1.0 - weight) * omega) / sine).unsqueeze(1)
    high_share = (torch.sin(weight * omega) / sine).unsqueeze(1)
    return low_share * low + high_share * high


def paste_centred(canvas: Tensor, patch: Tensor) -> Tensor:
    """`patch` `[C, h', w']` laid on the middle of `canvas` `[C, h, w]`, cropped where it is larger."""
    dx = (canvas.shape[2] - patch.shape[2]) // 2
    dy = (canvas.shape[1] - patch.shape[1]) // 2
    width = patch.shape[2] if dx >= 0 else patch.shape[2] + 2 * dx
    height = patch.shape[1] if dy >= 0 else patch.shape[1] + 2 * dy
    left, top = max(dx, 0), max(dy, 0)
    from_left, from_top = max(-dx, 0), max(-dy, 0)
    canvas[:, top : top + height, left : left + width] = patch[
        :, from_top : from_top + height, from_left : from_left + width
    ]
    return canvas


class ImageNoise:
    """The noise of one batch: `next()` first gives the start noise, then one tensor per sampler step.

    Args:
        shape: of one latent, (C, h, w).
        seeds: one per image.
        subseeds: variation seeds; a missing one counts as 0. Used when `subseed_strength` is not 0.
        seed_resize_from_w, seed_resize_from_h: in pixels; both > 0: draw at that size and paste centred.
        source: see `RandomSource`.
        device: where the noise is wanted.
        eta_noise_seed_delta: added to the seeds for everything after the start noise (ENSD).
    """

    def __init__(
        self,
        shape: Sequence[int],
        seeds: Sequence[int],
        *,
        subseeds: Sequence[int] | None = None,
        subseed_strength: float = 0.0,
        seed_resize_from_w: int = 0,
        seed_resize_from_h: int = 0,
        source: str = "GPU",
        device: torch.device | str = "cpu",
        eta_noise_seed_delta: int = 0,
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.seeds = tuple(int(seed) for seed in seeds)
        self.source = source
        self.device = torch.device(device)
        self._subseeds = tuple(int(seed) for seed in subseeds or ())
        self._strength = subseed_strength if subseeds is not None else 0.0
        self._draw_shape = self._first_shape(int(seed_resize_from_w), int(seed_resize_from_h))
        self._delta = int(eta_noise_seed_delta or 0)
        self._generators = [self._generator(seed) for seed in self.seeds]
        self._started = False

    def next(self) -> Tensor:
        """Standard normal `[B, C, h, w]` float32 on the device."""
        if not self._started:
            self._started = True
            return self._first()
        return self._stack([generator.randn(self.shape) for generator in self._generators])

    def _first_shape(self, width: int, height: int) -> tuple[int, ...]:
        if width <= 0 or height <= 0:
            return self.shape
        return self.shape[0], height // LATENT_SCALE, width // LATENT_SCALE

    def _generator(self, seed: int) -> NormalGenerator:
        return create_generator(seed, self.source, self.device)

    def _first(self) -> Tensor:
        noise = self._stack([self._first_of(index) for index in range(len(self.seeds))])
        if self._delta:
            self._generators = [self._generator(seed + self._delta) for seed in self.seeds]
        return noise

    def _first_of(self, index: int) -> Tensor:
        resized = self._draw_shape != self.shape
        generator = self._generators[index]
        # A resized draw leaves the image's own generator untouched: that one fills the canvas below.
        source = self._generator(self.seeds[index]) if resized else generator
        noise = source.randn(self._draw_shape)
        if self._strength != 0:
            subseed = self._subseeds[index] if index < len(self._subseeds) else 0
            noise = slerp(self._strength, noise, self._generator(subseed).randn(self._draw_shape))
        return paste_centred(generator.randn(self.shape), noise) if resized else noise

    def _stack(self, noises: list[Tensor]) -> Tensor:
        return torch.stack(noises).to(self.device)


def seeded_noise(
    shape: Sequence[int], seeds: Sequence[int], *, source: str = "GPU", device: torch.device | str = "cpu"
) -> Tensor:
    """The start noise `[len(seeds), C, h, w]` of seeds alone (img2img's "latent noise" fill)."""
    return ImageNoise(shape, seeds, source=source, device=device).next()


def fresh_entropy(seed: int) -> int:
    """The number torch's default generator gives first after `manual_seed(seed)`, in [0, 2**63 - 1).

    With `no_dpmpp_sde_batch_determinism` the Brownian tree of a batch is seeded so.
    """
    generator = seeded_generator(seed)
    return int(torch.randint(0, 2**63 - 1, [], generator=generator).item())
