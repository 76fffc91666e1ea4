"""`modules.masking`: geometry of inpainting."""

from __future__ import annotations

from typing import Any

from sdwebui_api.imaging import masks
from sdwebui_api.imaging.masks import expand_crop_region, fill

__all__ = ["expand_crop_region", "fill", "get_crop_region", "get_crop_region_v2"]


def get_crop_region_v2(mask: Any, pad: int = 0) -> Any:
    """(x1, y1, x2, y2) of what is not black, with `pad` pixels around; None when all is black."""
    return masks.get_crop_region(_image(mask), pad)


def get_crop_region(mask: Any, pad: int = 0) -> Any:
    mask = _image(mask)
    return masks.get_crop_region(mask, pad) or (mask.width, mask.height, 0, 0)


def _image(mask: Any) -> Any:
    if hasattr(mask, "getbbox"):
        return mask
    from PIL import Image

    return Image.fromarray(mask)
