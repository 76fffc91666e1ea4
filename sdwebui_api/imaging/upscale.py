"""Enlarging pictures: the loop every upscaler runs in, and the upscalers that need no weights.

Follows A1111 `modules/upscaler.py`: an upscaler's single pass is repeated until the picture is at least as
large as asked for, then Lanczos brings it to the exact size, each side rounded down to a multiple of 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from PIL import Image

from sdwebui_api.errors import NotFound, PayloadTooLarge, nearest

LANCZOS = Image.Resampling.LANCZOS
NEAREST = Image.Resampling.NEAREST
MAX_PASSES = 3

Enlarge = Callable[[Image.Image, float], Image.Image]
"""One pass: (image, wanted scale) -> image. Networks ignore the scale and apply their own factor."""


@dataclass(frozen=True)
class Upscaler:
    """A way to enlarge pictures, known by the name that `GET /sdapi/v1/upscalers` lists."""

    name: str
    enlarge: Enlarge

    def upscale(self, image: Image.Image, scale: float) -> Image.Image:
        """`image` enlarged `scale` times; each side rounded down to a multiple of 8 (at least 8).

        Raises what `enlarge` raises; PayloadTooLarge only when its first pass does.
        """
        width, height = (max(8, int(side * scale // 8 * 8)) for side in image.size)
        for attempt in range(MAX_PASSES):
            large_enough = image.width >= width and image.height >= height
            # scale 1 still runs the pass once: a restoring network is asked for at scale 1 on purpose
            if large_enough and (attempt > 0 or scale != 1):
                break
            before = image.size
            try:
                image = self.enlarge(image, scale)
            except PayloadTooLarge:
                if attempt == 0:
                    raise
                break  # a further pass would make far more than is asked for: Lanczos goes the rest of the way
            if image.size == before:
                break
        if image.size != (width, height):
            image = image.resize((width, height), resample=LANCZOS)
        return image


def _resampled(filter_: Image.Resampling) -> Enlarge:
    def enlarge(image: Image.Image, scale: float) -> Image.Image:
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        return image.resize(size, resample=filter_)

    return enlarge


WEIGHT_FREE_UPSCALERS: Mapping[str, Upscaler] = MappingProxyType(
    {
        "None": Upscaler("None", lambda image, scale: image),
        "Lanczos": Upscaler("Lanczos", _resampled(LANCZOS)),
        "Nearest": Upscaler("Nearest", _resampled(NEAREST)),
    }
)


def find_upscaler(name: str, field: str, upscalers: Mapping[str, Upscaler] = WEIGHT_FREE_UPSCALERS) -> Upscaler:
    """The upscaler called `name`, letter case ignored. Raises NotFound naming `field` and the nearest names."""
    found = upscalers.get(name) or {key.lower(): value for key, value in upscalers.items()}.get(name.lower())
    if found is None:
        raise NotFound(f"upscaler {name!r} not found", field=field, choices=nearest(name, upscalers))
    return found
