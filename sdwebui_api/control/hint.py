"""Geometry of control maps: which picture a preprocessor sees, and the map at the size that is generated.

Follows the ControlNet extension 1.1.455 (`scripts/controlnet.py`, `choose_input_image`, `detectmap_proc`,
`try_crop_image_with_a1111_mask`; `scripts/utils.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from sdwebui_api.control.preprocessors.sizes import as_rgb
from sdwebui_api.control.thinning import keep_ridges, thin
from sdwebui_api.control.unit import ResizeMode
from sdwebui_api.errors import PayloadTooLarge
from sdwebui_api.imaging import masks
from sdwebui_api.imaging.resize import MAX_UNCUT_PIXELS, resize_image

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import Picture
    from sdwebui_api.imaging.inpaint import MaskSpec

Size = tuple[int, int]
"""width, height"""

_FEW_COLOURS = 200
"""Maps with fewer colours than this, but more than two, are segmentations: their colours must not mix."""


def pixel_perfect_resolution(image: Picture, size: Size, mode: ResizeMode) -> int:
    """The length that the map's shorter side has after it was fitted to `size`; at least 1."""
    height, width = image.shape[:2]
    scales = size[1] / height, size[0] / width
    scale = min(scales) if mode == ResizeMode.FILL else max(scales)
    return max(int(np.round(scale * min(height, width))), 1)


def has_content(mask: Picture | None) -> bool:
    """A mask that is all black or all white was not painted on purpose."""
    return mask is not None and not ((mask <= 5).all() or (mask >= 250).all())


def fit_map(image: Picture, size: Size, mode: ResizeMode) -> Picture:
    """`image` uint8 `[H, W, 3]` (4: with a mask) at `size`, stretched, cropped or bordered as `mode` says.

    Raises PayloadTooLarge where cropping would have to cut nearly everything off.
    """
    width, height = size
    old_height, old_width = image.shape[:2]
    scales = height / old_height, width / old_width
    if mode == ResizeMode.JUST_RESIZE:
        return _scaled(image, size)
    if mode == ResizeMode.FILL:
        return _bordered(image, size, min(scales))
    uncut = _times((old_width, old_height), max(scales))
    if uncut[0] * uncut[1] > MAX_UNCUT_PIXELS:
        raise PayloadTooLarge(f"{old_width}x{old_height} is too long and thin to be cropped to {width}x{height}")
    scaled = _scaled(image, uncut)
    top, left = max(0, (scaled.shape[0] - height) // 2), max(0, (scaled.shape[1] - width) // 2)
    return np.ascontiguousarray(scaled[top : top + height, left : left + width])


def _bordered(image: Picture, size: Size, scale: float) -> Picture:
    """Centred on the median colour of its border; there the mask, if any, is white."""
    width, height = size
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]], axis=0)
    colour = np.median(border, axis=0).astype(image.dtype)
    if len(colour) == 4:
        colour[3] = 255
    canvas = np.tile(colour, (height, width, 1))
    scaled = _scaled(image, _times(image.shape[1::-1], scale))
    new_height, new_width = scaled.shape[:2]
    top, left = max(0, (height - new_height) // 2), max(0, (width - new_width) // 2)
    canvas[top : top + new_height, left : left + new_width] = scaled
    return np.ascontiguousarray(canvas)


def _times(size: tuple[int, ...], scale: float) -> Size:
    return max(int(np.round(size[0] * scale)), 1), max(int(np.round(size[1] * scale)), 1)


def _scaled(image: Picture, size: Size) -> Picture:
    """Resized by what kind of map it is: segmentation, lines one pixel wide, other black and white, or a picture."""
    if image.shape[1::-1] == size:
        colour, resized_mask = image[:, :, :3], image[:, :, 3] if image.shape[2] == 4 else None
    else:
        colour = image[:, :, :3]
        colours = _count_colours(colour)
        interpolation = _interpolation(colours, colour.shape[0] * colour.shape[1], size)
        binary = colours == 2 and colour.min() < 16 and colour.max() > 240
        lines = binary and _is_lines(colour)
        grows = size[0] * size[1] > colour.shape[0] * colour.shape[1]
        colour = np.asarray(cv2.resize(colour, size, interpolation=interpolation), dtype=np.uint8)
        if binary:
            colour = _black_and_white(colour, lines=bool(lines), prune=grows)
        resized_mask = None
        if image.shape[2] == 4:
            mask = np.ascontiguousarray(image[:, :, 3])
            resized_mask = np.asarray(cv2.resize(mask, size, interpolation=interpolation), dtype=np.uint8)
    if resized_mask is None:
        return colour
    hard = np.where(resized_mask > 127, 255, 0).astype(np.uint8)
    return np.concatenate([colour, hard[:, :, None]], axis=2)


def _interpolation(colours: int, area: int, size: Size) -> int:
    if 2 < colours < _FEW_COLOURS:
        return cv2.INTER_NEAREST
    return cv2.INTER_AREA if size[0] * size[1] < area else cv2.INTER_CUBIC


def _count_colours(image: Picture) -> int:
    flat = image.reshape(-1, image.shape[2]).astype(np.uint32)
    return len(np.unique(flat @ np.array([65536, 256, 1], dtype=np.uint32)))


def _is_lines(image: Picture) -> bool:
    """Whether most of the white vanishes when it is eroded."""
    kernel = np.ones((3, 3), dtype=np.uint8)
    opened = np.asarray(cv2.dilate(cv2.erode(image, kernel), kernel))
    return int((opened < image).sum()) * 2 > int((image > 127).sum())


def _black_and_white(image: Picture, *, lines: bool, prune: bool) -> Picture:
    grey = image.astype(np.float32).mean(axis=2).clip(0, 255).astype(np.uint8)
    if lines:
        grey = keep_ridges(grey)
    grey = np.asarray(cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1], dtype=np.uint8)
    if lines:
        grey = thin(grey, prune=prune)
    return np.repeat(grey[:, :, None], 3, axis=2)


def shown_map(image: Picture) -> Image.Image:
    """As clients are shown it: a mask in the fourth channel makes its part half transparent."""
    if image.ndim == 3 and image.shape[2] == 4:
        return Image.fromarray(np.dstack([image[:, :, :3], 255 - image[:, :, 3] // 2]))
    return Image.fromarray(as_rgb(image))


# -- img2img's mask ------------------------------------------------------------------------------------------------


def inpaint_mask(mask: MaskSpec) -> Image.Image:
    """img2img's mask as the extension reads it: grey, inverted and blurred where asked for, never rounded."""
    image = mask.image.convert("L")
    if mask.invert:
        image = masks.invert(image)
    return masks.blur(image, mask.blur_x, mask.blur_y)


def crop_to_masked_area(image: Picture, mask: MaskSpec, size: Size, mode: ResizeMode) -> Picture:
    """The part of `image` that "only masked" inpainting generates, at `size`; `image` itself for a blank mask."""
    width, height = size
    whole = inpaint_mask(mask)
    region = masks.get_crop_region(whole, mask.full_resolution_padding)
    if region is None:
        return image
    region = masks.expand_crop_region(region, width, height, whole.width, whole.height)
    channels = []
    for index in range(image.shape[2]):
        channel = Image.fromarray(np.ascontiguousarray(image[:, :, index]))
        channel = resize_image(mode, channel, whole.width, whole.height).crop(region)
        channels.append(np.asarray(resize_image(ResizeMode.FILL, channel, width, height).convert("L")))
    return np.stack(channels, axis=2)
