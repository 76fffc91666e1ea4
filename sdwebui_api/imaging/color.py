"""Colour correction of img2img: the result takes on the colour distribution of the start image.

As A1111 `modules/processing.py`: histograms are matched per channel in 8-bit Lab, then the result's own
luminosity is put back, so that only the colours move.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image
from skimage import exposure

_LUMA = np.array([0.299, 0.587, 0.114])


def setup_color_correction(image: Image.Image) -> np.ndarray:
    """The Lab pixels of `image` (RGB): uint8 [H, W, 3], the target of `apply_color_correction`."""
    return cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2LAB)


def apply_color_correction(target: np.ndarray, image: Image.Image) -> Image.Image:
    """RGB `image` with the colours of `target` and its own luminosity."""
    image = image.convert("RGB")
    lab = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2LAB)
    matched = exposure.match_histograms(lab, target, channel_axis=2).astype(np.uint8)
    recoloured = Image.fromarray(cv2.cvtColor(matched, cv2.COLOR_LAB2RGB))
    return blend_luminosity(recoloured, image)


def blend_luminosity(backdrop: Image.Image, source: Image.Image) -> Image.Image:
    """Hue and saturation of `backdrop` with the luminosity of `source`.

    The "luminosity" mode of W3C Compositing and Blending Level 1, section 9.2, with the Rec. 601 luma
    weights. Values are cut off, not rounded, when they return to 8 bits, as A1111's blending library does.
    """
    below = np.asarray(backdrop.convert("RGB"), dtype=np.float64) / 255
    above = np.asarray(source.convert("RGB"), dtype=np.float64) / 255
    mixed = _clip_colour(below + (above @ _LUMA - below @ _LUMA)[..., None])
    # The margin keeps whole levels whole: 0.3 * 255 must not become 76 for want of the 17th digit.
    return Image.fromarray(np.clip(mixed * 255 + 1e-6, 0, 255).astype(np.uint8))


def _clip_colour(colour: np.ndarray) -> np.ndarray:
    """`colour` [H, W, 3] pulled towards its own grey until every channel lies in [0, 1]."""
    luma = (colour @ _LUMA)[..., None]
    lowest = colour.min(axis=2, keepdims=True)
    highest = colour.max(axis=2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        colour = np.where(lowest < 0, luma + (colour - luma) * luma / (luma - lowest), colour)
        colour = np.where(highest > 1, luma + (colour - luma) * (1 - luma) / (highest - luma), colour)
    return np.nan_to_num(colour)
