"""Geometry of the hires pass: how large the second pass is, and what is cut off afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdwebui_api.generation.request import HiresPass


@dataclass(frozen=True)
class HiresSize:
    """The size the first pass is enlarged to, in pixels, and the latent cells cropped off per axis."""

    width: int
    height: int
    truncate_x: int
    truncate_y: int
    infotext: Mapping[str, Any]


def old_first_pass_size(width: int, height: int) -> tuple[int, int]:
    """The first pass of a `width` x `height` picture before A1111 1.0: about 512x512 pixels in steps of 64.

    Option `use_old_hires_fix_width_height`; `processing.old_hires_fix_first_pass_dimensions`.
    """
    scale = math.sqrt(512 * 512 / (width * height))
    return math.ceil(scale * width / 64) * 64, math.ceil(scale * height / 64) * 64


def hires_size(width: int, height: int, hires: HiresPass, latent_scale: int) -> HiresSize:
    """A scale, one side with the other in proportion, or a box that is filled and then cropped (A1111).

    `latent_scale` is the number of pixels per latent cell.
    """
    if not hires.resize_x and not hires.resize_y:
        scaled = int(width * hires.scale), int(height * hires.scale)
        return HiresSize(*scaled, 0, 0, {"Hires upscale": hires.scale})
    infotext = {"Hires resize": f"{hires.resize_x}x{hires.resize_y}"}
    if not hires.resize_y:
        return HiresSize(hires.resize_x, hires.resize_x * height // width, 0, 0, infotext)
    if not hires.resize_x:
        return HiresSize(hires.resize_y * width // height, hires.resize_y, 0, 0, infotext)
    if width / height < hires.resize_x / hires.resize_y:
        to_x, to_y = hires.resize_x, hires.resize_x * height // width
    else:
        to_x, to_y = hires.resize_y * width // height, hires.resize_y
    truncate_x = (to_x - hires.resize_x) // latent_scale
    truncate_y = (to_y - hires.resize_y) // latent_scale
    return HiresSize(to_x, to_y, truncate_x, truncate_y, infotext)
