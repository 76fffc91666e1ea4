"""Pictures brought to the size and form that detectors work on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sdwebui_api.errors import PayloadTooLarge

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import Detector, Picture

MAX_PIXELS = 8192 * 8192
"""What a long and thin picture may grow to."""

MULTIPLE = 64
"""Detectors get pictures whose sides are multiples of this."""


def as_rgb(image: Picture) -> Picture:
    """uint8 `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]` to `[H, W, 3]`; transparency shows white."""
    if image.ndim == 2:
        image = image[:, :, None]
    channels = image.shape[2]
    if channels == 1:
        return np.repeat(image, 3, axis=2)
    if channels == 3:
        return image
    colour, alpha = image[:, :, :3].astype(np.float32), image[:, :, 3:].astype(np.float32) / 255.0
    return (colour * alpha + 255.0 * (1.0 - alpha)).clip(0, 255).astype(np.uint8)


def resize_padded(image: Picture, resolution: int) -> tuple[Picture, Callable[[Picture], Picture]]:
    """Scale so that the shorter side is `resolution`, then repeat the border up to multiples of 64.

    Returns the picture `[H', W', C]` and a function that cuts the padding off a map of that size.
    Raises PayloadTooLarge.
    """
    height, width = image.shape[:2]
    scale = resolution / min(height, width)
    target_h, target_w = int(np.round(height * scale)), int(np.round(width * scale))
    if target_h * target_w > MAX_PIXELS:
        raise PayloadTooLarge(f"{width}x{height} at resolution {resolution} is more than {MAX_PIXELS} pixels")
    interpolation = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    resized = cv2.resize(image, (target_w, target_h), interpolation=interpolation)
    pad_h, pad_w = -target_h % MULTIPLE, -target_w % MULTIPLE
    padding = [(0, pad_h), (0, pad_w)] + [(0, 0)] * (resized.ndim - 2)
    padded = np.pad(resized, padding, mode="edge")
    return padded, lambda result: np.ascontiguousarray(result[:target_h, :target_w])


def detect_at(image: Picture, resolution: int, detect: Detector) -> Picture:
    """Run `detect` on the picture at `resolution`; the map without padding, as `[h, w, 3]`."""
    padded, unpad = resize_padded(as_rgb(image), resolution)
    return as_rgb(unpad(detect(padded)))
