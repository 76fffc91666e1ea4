"""`modules.rng`: noise by seeds, from the source that the job's settings name."""

from __future__ import annotations

from typing import Any

from sdwebui_api.sampling.noise import ImageNoise, seeded_noise
from sdwebui_api.scripting.compat.world import current_device, current_options


def randn(seed: int, shape: Any, generator: Any = None) -> Any:
    """One tensor of `shape`."""
    source = current_options().randn_source
    return seeded_noise(tuple(shape), [int(seed)], source=source, device=current_device())[0]


class ImageRNG:
    """The noise of a batch: `first()`, then `next()` for every step."""

    def __init__(
        self, shape: Any, seeds: Any, subseeds: Any = None, subseed_strength: float = 0.0, seed_resize_from_h: int = 0,
        seed_resize_from_w: int = 0,
    ) -> None:  # fmt: skip
        self.shape, self.seeds, self.subseeds = tuple(map(int, shape)), list(seeds), subseeds
        options = current_options()
        self._noise = ImageNoise(
            self.shape,
            [int(seed) for seed in seeds],
            subseeds=[int(seed) for seed in subseeds] if subseeds else [0] * len(self.seeds),
            subseed_strength=subseed_strength,
            seed_resize_from_w=seed_resize_from_w,
            seed_resize_from_h=seed_resize_from_h,
            source=options.randn_source,
            device=current_device(),
            eta_noise_seed_delta=options.eta_noise_seed_delta,
        )

    def next(self) -> Any:
        return self._noise.next()

    first = next
