"""Inpainting masks: making, blurring and cropping them, filling what they cover, and pasting results back.

Geometry and arithmetic follow A1111 `modules/masking.py` and `modules/processing.py`. White is repainted.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageFilter, ImageOps

from sdwebui_api.imaging.resize import ResizeMode, resize_image
from sdwebui_api.imaging.upscale import Upscaler

Box = tuple[int, int, int, int]
"""x1, y1, x2, y2; the second corner lies outside."""

# Blur radius and how often that layer is laid on: wide blurs give far pixels a colour, narrow ones the border its own.
_FILL_LAYERS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))

_LONGEST_KERNEL = 32
"""Times the length of the mask that OpenCV blurs in no time."""


def create_binary_mask(image: Image.Image, round_: bool = True) -> Image.Image:
    """Mode L mask of any image: its alpha channel when that is not opaque throughout, else its brightness.

    `round_` makes an alpha mask black and white (above 128 is white); brightness masks stay as they are.
    """
    if image.mode != "RGBA" or image.getextrema()[-1] == (255, 255):
        return image.convert("L")
    alpha = image.getchannel("A")
    return alpha.point(lambda value: 255 if value > 128 else 0) if round_ else alpha


def invert(mask: Image.Image) -> Image.Image:
    """`mask` with black and white exchanged."""
    return ImageOps.invert(mask)


def blur(mask: Image.Image, x: float, y: float) -> Image.Image:
    """`mask` with a Gaussian of sigma `x` along rows and `y` along columns; 0 leaves that direction sharp."""
    pixels = np.array(mask)
    if x > 0:
        pixels = _blur_columns(pixels.T, x).T
    if y > 0:
        pixels = _blur_columns(pixels, y)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _blur_columns(pixels: Any, sigma: float) -> Any:
    """OpenCV's blur along the first axis. A kernel far longer than the mask is folded first: OpenCV would walk to and
    fro across the mask for every tap, which takes hours for one of 3x5000 pixels."""
    size, length = _kernel_size(sigma), len(pixels)
    if size <= _LONGEST_KERNEL * length:
        return cv2.GaussianBlur(np.ascontiguousarray(pixels), (1, size), sigma)
    kernel = cv2.getGaussianKernel(size, sigma)[:, 0]
    taps = np.pad(np.arange(length), size // 2, mode="reflect")
    weights = [np.bincount(taps[row : row + size], kernel, length) for row in range(length)]
    return np.rint(np.stack(weights) @ pixels).astype(np.uint8)


def _kernel_size(sigma: float) -> int:
    return 2 * int(2.5 * sigma + 0.5) + 1


def get_crop_region(mask: Image.Image, padding: int = 0) -> Box | None:
    """The smallest box around everything not black, `padding` wider on each side, inside the mask; None when blank."""
    box = mask.getbbox()
    if box is None:
        return None
    x1, y1, x2, y2 = box
    return max(x1 - padding, 0), max(y1 - padding, 0), min(x2 + padding, mask.width), min(y2 + padding, mask.height)


def expand_crop_region(region: Box, width: int, height: int, image_width: int, image_height: int) -> Box:
    """`region` grown to the aspect ratio `width`:`height` as far as the image has room."""
    x1, y1, x2, y2 = region
    ratio = width / height
    if (x2 - x1) / (y2 - y1) > ratio:
        y1, y2 = _grow(y1, y2, (x2 - x1) / ratio, image_height)
    else:
        x1, x2 = _grow(x1, x2, (y2 - y1) * ratio, image_width)
    return x1, y1, x2, y2


def _grow(start: int, stop: int, wanted: float, limit: int) -> tuple[int, int]:
    """`start`..`stop` grown evenly to the length `wanted`, moved back inside 0..`limit` and cut there."""
    more = int(wanted - (stop - start))
    start -= more // 2
    stop += more - more // 2
    overhang = max(stop - limit, 0)
    start, stop = start - overhang, stop - overhang
    if start < 0:
        start, stop = 0, stop - start
    return start, min(stop, limit)


def strengthen(mask: Image.Image) -> Image.Image:
    """`mask` twice as bright, so that the overlay fades only outside the half-covered line."""
    pixels = np.array(mask).astype(np.float32) * 2
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def cut_out(image: Image.Image, mask: Image.Image) -> Image.Image:
    """`image` with premultiplied alpha (mode RGBa), transparent where `mask` is white."""
    kept = Image.new("RGBa", image.size)
    kept.paste(image.convert("RGBA").convert("RGBa"), mask=ImageOps.invert(mask.convert("L")))
    return kept


def overlay_of(image: Image.Image, mask: Image.Image) -> Image.Image:
    """What is laid over the result: `image` (RGBA), transparent where `mask` is white."""
    return cut_out(image, mask).convert("RGBA")


def fill(image: Image.Image, mask: Image.Image) -> Image.Image:
    """RGB `image` whose masked part is filled with blurred colours of its surroundings (fill mode "fill")."""
    filled = Image.new("RGBA", image.size)
    kept = cut_out(image, mask)
    for radius, repeats in _FILL_LAYERS:
        layer = kept.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(repeats):
            filled.alpha_composite(layer)
    return filled.convert("RGB")


def uncrop(image: Image.Image, size: tuple[int, int], paste_to: Box, upscaler: Upscaler | None = None) -> Image.Image:
    """RGBA canvas of `size` with `image` scaled into `paste_to` (x, y, width, height)."""
    x, y, width, height = paste_to
    canvas = Image.new("RGBA", size)
    canvas.paste(resize_image(ResizeMode.CROP, image, width, height, upscaler), (x, y))
    return canvas


def apply_overlay(
    image: Image.Image,
    overlay: Image.Image | None,
    paste_to: Box | None = None,
    upscaler: Upscaler | None = None,
) -> tuple[Image.Image, Image.Image]:
    """The finished RGB picture, and the denoised picture alone at the same size (for the mask composite)."""
    if overlay is None:
        return image, image.copy()
    if paste_to is not None:
        image = uncrop(image, overlay.size, paste_to, upscaler)
    finished = image.convert("RGBA")
    finished.alpha_composite(overlay)
    return finished.convert("RGB"), image.copy()


def mask_composite(denoised: Image.Image, mask_for_overlay: Image.Image) -> Image.Image:
    """RGBA picture of the repainted part alone, transparent elsewhere (option `return_mask_composite`)."""
    mask = resize_image(ResizeMode.FILL, mask_for_overlay, denoised.width, denoised.height).convert("L")
    empty = Image.new("RGBa", denoised.size)
    return Image.composite(denoised.convert("RGBA").convert("RGBa"), empty, mask).convert("RGBA")


def latent_mask_values(mask: Image.Image, width: int, height: int, round_: bool = True) -> np.ndarray:
    """float32 [height, width] in [0, 1] at latent size; 1 is repainted. `round_` makes it 0 or 1."""
    small = mask.convert("RGB").resize((width, height))
    values = np.asarray(small, dtype=np.float32)[:, :, 0] / 255
    return np.around(values) if round_ else values
