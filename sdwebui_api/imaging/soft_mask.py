"""How strongly each place of an inpainted picture changed, made into the mask that lays the original over it.

This is the part of soft inpainting (A1111 `extensions-builtin/soft-inpainting`) that works on plain arrays: the change
of the latent is filtered, compared with a threshold and turned into opacity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from sdwebui_api.imaging.masks import Box, cut_out, uncrop
from sdwebui_api.imaging.resize import ResizeMode, resize_image

_BLUR_RADIUS = 4
_KERNEL_RADIUS = 2
_KERNEL_DEVIATION = 1.5


@dataclass(frozen=True)
class Percentiles:
    """The part of a neighbourhood's values, in order, that a filter averages; at least `width` wide by weight."""

    low: float
    high: float
    width: float = 1.0


MAXIMUM = Percentiles(0.9, 1.0)
MIDDLE = Percentiles(0.25, 0.75)


def change_mask(distance: np.ndarray, threshold: np.ndarray | float, contrast: float) -> np.ndarray:
    """uint8 [h, w]: 255 where the picture changed entirely, 0 where not at all.

    distance: float [h, w], how far the latent moved; threshold: the distance at which it counts as half changed;
    contrast: how sharply the one becomes the other.
    """
    kernel = gaussian_kernel(_KERNEL_DEVIATION, _KERNEL_RADIUS)
    filtered = weighted_percentile_filter(distance, kernel, MAXIMUM)
    filtered = weighted_percentile_filter(filtered, kernel, MIDDLE)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        kept = 1 / (1 + (filtered / threshold) ** contrast)
    return (255.0 * (1 - smootherstep(np.nan_to_num(kept)))).astype(np.uint8)


def picture_mask(mask: np.ndarray, width: int, height: int, size: tuple[int, int], paste_to: Box | None) -> Image.Image:
    """uint8 `mask` at latent size -> mode L at `size`; it belongs to the part `paste_to`, None: to all of it."""
    image = resize_image(ResizeMode.FILL, Image.fromarray(mask), width, height)
    image = image.convert("L").filter(ImageFilter.GaussianBlur(_BLUR_RADIUS))
    return uncrop(image, size, paste_to) if paste_to is not None else image


def overlay_outside(image: Image.Image, mask: Image.Image) -> Image.Image:
    """RGBA `image`, transparent where `mask` is white."""
    return cut_out(image, mask).convert("RGBA")


def smootherstep(x: np.ndarray) -> np.ndarray:
    """Perlin's s-curve from (0, 0) to (1, 1)."""
    return x * x * x * (x * (6 * x - 15) + 10)


def gaussian_kernel(deviation: float, radius: int) -> np.ndarray:
    """float64 [2 radius + 1, 2 radius + 1], 1 in the middle, tapered to reach 0 one pixel outside."""
    axis = np.arange(-radius, radius + 1, dtype=np.float64)
    squares = axis[:, None] ** 2 + axis[None, :] ** 2
    edge = np.exp(-((radius + 1.0) ** 2) / deviation**2)
    return np.maximum(0.0, (np.exp(-squares / deviation**2) - edge) / (1 - edge))


def weighted_percentile_filter(image: np.ndarray, kernel: np.ndarray, window: Percentiles) -> np.ndarray:
    """The weighted mean of each pixel's neighbours whose rank by value lies in `window`; [h, w] in and out.

    A neighbour's weight is the kernel's there; the image ends at its border (nothing is repeated or mirrored).
    """
    values, weights = _neighbours(image, kernel)
    order = np.argsort(values, axis=2, kind="stable")
    values = np.take_along_axis(values, order, axis=2)
    weights = np.take_along_axis(weights, order, axis=2)
    tops = np.cumsum(weights, axis=2)
    start, stop = _bounds(tops[..., -1:], window)
    shares = np.clip(np.minimum(stop, tops) - np.maximum(start, tops - weights), 0.0, None)
    total = shares.sum(axis=2)
    return np.divide((values * shares).sum(axis=2), total, out=np.zeros_like(total), where=total > 0)


def _neighbours(image: np.ndarray, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights [h, w, kernel size]; what lies outside the image weighs nothing."""
    height, width = image.shape
    radius = kernel.shape[0] // 2
    padded = np.pad(image.astype(np.float64), radius)
    inside = np.pad(np.ones_like(image, dtype=np.float64), radius)
    values, weights = [], []
    for y in range(kernel.shape[0]):
        for x in range(kernel.shape[1]):
            values.append(padded[y : y + height, x : x + width])
            weights.append(inside[y : y + height, x : x + width] * kernel[y, x])
    return np.stack(values, axis=2), np.stack(weights, axis=2)


def _bounds(total: np.ndarray, window: Percentiles) -> tuple[np.ndarray, np.ndarray]:
    """Where the window starts and stops in a stack of height `total`: moved inside it if it had to be widened."""
    start, stop = total * window.low, total * window.high
    narrow = stop - start < window.width
    middle = (start + stop) / 2
    start = np.where(narrow, np.minimum(middle - window.width / 2, total - window.width), start)
    start = np.where(narrow, np.maximum(start, 0.0), start)
    return start, np.where(narrow, start + window.width, stop)
