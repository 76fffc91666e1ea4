"""From init images and a mask to what the engine needs: the geometry of img2img and inpainting in one place.

Follows StableDiffusionProcessingImg2Img.init of A1111 `modules/processing.py`, without any model in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from PIL import Image

from sdwebui_api.imaging import masks
from sdwebui_api.imaging.color import setup_color_correction
from sdwebui_api.imaging.resize import ResizeMode, flatten, resize_image
from sdwebui_api.imaging.upscale import Upscaler

FILL, ORIGINAL, LATENT_NOISE, LATENT_NOTHING = range(4)
FILL_UNNAMED = -1
"""Fills like `FILL`, but the infotext does not say so (A1111 in "Poor man's outpainting" through the API)."""
_FILL_LABELS = {FILL: "fill", LATENT_NOISE: "latent noise", LATENT_NOTHING: "latent nothing"}
BLANK_MASK = 'Unable to perform "Inpaint Only mask" because mask is blank, switch to img2img mode.'


class MaskSpec(Protocol):
    """What `prepare_inpaint` reads of a mask; `generation.request.InpaintMask` fits."""

    @property
    def image(self) -> Image.Image: ...
    @property
    def blur_x(self) -> int: ...
    @property
    def blur_y(self) -> int: ...
    @property
    def round(self) -> bool: ...
    @property
    def fill(self) -> int: ...
    @property
    def full_resolution(self) -> bool: ...
    @property
    def full_resolution_padding(self) -> int: ...
    @property
    def invert(self) -> bool: ...


@dataclass(frozen=True)
class PreparedInit:
    """Start images ready for the VAE, and everything needed to put the results back together.

    All sequences run parallel to `images`; `overlays` and `color_targets` are empty when unused.
    """

    images: tuple[Image.Image, ...]
    """RGB at the requested size; with resize mode 3 (latent) at their own size."""
    latent_mask: Image.Image | None = None
    """What is repainted, before it is scaled to latent size (`masks.latent_mask_values`); None without a mask."""
    image_mask: Image.Image | None = None
    """The mask at image size, which inpainting checkpoints are conditioned on."""
    mask_for_overlay: Image.Image | None = None
    """The mask as returned by `return_mask`; white is repainted."""
    overlays: tuple[Image.Image, ...] = ()
    """RGBA pictures laid over the results (`masks.apply_overlay`)."""
    paste_to: masks.Box | None = None
    """x, y, width, height of the repainted part inside the overlay; None when it is all of it."""
    color_targets: tuple[np.ndarray, ...] = ()
    """For `color.apply_color_correction`."""
    infotext: dict[str, Any] = field(default_factory=dict)
    """`Mask blur`, `Inpaint area` and so on, in A1111's order."""
    comments: tuple[str, ...] = ()
    """What the client should be told."""
    upscaler: Upscaler | None = None
    """For a repainted part that is pasted back larger than it was made."""


@dataclass(frozen=True)
class _Region:
    """The mask worked out: `image_mask` is None when there is none or it is blank."""

    image_mask: Image.Image | None = None
    for_overlay: Image.Image | None = None
    crop: masks.Box | None = None
    infotext: dict[str, Any] = field(default_factory=dict)
    comments: tuple[str, ...] = ()


def prepare_inpaint(
    images: Sequence[Image.Image],
    mask: MaskSpec | None,
    width: int,
    height: int,
    resize_mode: int = ResizeMode.JUST_RESIZE,
    *,
    latent_mask: Image.Image | None = None,
    background: str = "#ffffff",
    color_correction: bool = False,
    upscaler: Upscaler | None = None,
) -> PreparedInit:
    """Everything that A1111 works out of `images` and `mask` for a result of `width` x `height` pixels.

    Also right for plain img2img (`mask` None). `latent_mask` replaces the mask in latent space only.
    `background`: option `img2img_background_color`; `color_correction`: option `img2img_color_correction`;
    `upscaler`: option `upscaler_for_img2img`. Raises BadRequest when `background` is no colour.
    """
    region = _region(mask, width, height, resize_mode, upscaler)
    latent_mask = (latent_mask or region.image_mask) if region.image_mask is not None else None
    prepared, overlays = [], []
    for_overlay = region.for_overlay
    for original in images:
        image = flatten(original, background)
        if region.crop is None and resize_mode != ResizeMode.LATENT:
            image = resize_image(resize_mode, image, width, height, upscaler)
        if region.image_mask is not None and for_overlay is not None:
            if for_overlay.size != image.size:
                for_overlay = resize_image(resize_mode, for_overlay, image.width, image.height, upscaler)
            overlays.append(masks.overlay_of(image, for_overlay))
        if region.crop is not None:
            image = resize_image(ResizeMode.FILL, image.crop(region.crop), width, height, upscaler)
        if mask is not None and latent_mask is not None and mask.fill != ORIGINAL:
            # Only a foreign latent mask or resize mode 3 makes the sizes differ; A1111 fails there.
            same_size = latent_mask if latent_mask.size == image.size else latent_mask.resize(image.size)
            image = masks.fill(image, same_size)
        prepared.append(image)
    return PreparedInit(
        images=tuple(prepared),
        latent_mask=latent_mask,
        image_mask=region.image_mask,
        mask_for_overlay=for_overlay,
        overlays=tuple(overlays),
        paste_to=_corner_and_size(region.crop),
        color_targets=tuple(setup_color_correction(image) for image in prepared) if color_correction else (),
        infotext=region.infotext,
        comments=region.comments,
        upscaler=upscaler,
    )


def _corner_and_size(crop: masks.Box | None) -> masks.Box | None:
    return crop and (crop[0], crop[1], crop[2] - crop[0], crop[3] - crop[1])


def _region(mask: MaskSpec | None, width: int, height: int, resize_mode: int, upscaler: Upscaler | None) -> _Region:
    """The mask made binary, inverted, blurred and brought to size, and the part of the image it asks for."""
    if mask is None:
        return _Region()
    infotext: dict[str, Any] = {}
    image_mask = masks.create_binary_mask(mask.image, mask.round)
    if mask.invert:
        image_mask = masks.invert(image_mask)
        infotext["Mask mode"] = "Inpaint not masked"
    image_mask = masks.blur(image_mask, mask.blur_x, mask.blur_y)
    if mask.blur_x > 0 or mask.blur_y > 0:
        # One number can name the blur only when both directions agree; None keeps the entry out of the text.
        infotext["Mask blur"] = mask.blur_x if mask.blur_x == mask.blur_y else None
    if mask.full_resolution:
        return _only_masked(mask, image_mask, width, height, infotext)
    image_mask = resize_image(resize_mode, image_mask, width, height, upscaler)
    _note_fill(mask, infotext)
    return _Region(image_mask, masks.strengthen(image_mask), infotext=infotext)


def _only_masked(mask: MaskSpec, image_mask: Image.Image, width: int, height: int, infotext: dict[str, Any]) -> _Region:
    crop = masks.get_crop_region(image_mask, mask.full_resolution_padding)
    if crop is None:
        return _Region(infotext=infotext, comments=(BLANK_MASK,))
    crop = masks.expand_crop_region(crop, width, height, image_mask.width, image_mask.height)
    infotext["Inpaint area"] = "Only masked"
    infotext["Masked area padding"] = mask.full_resolution_padding
    _note_fill(mask, infotext)
    inner = resize_image(ResizeMode.FILL, image_mask.crop(crop), width, height)
    return _Region(inner, image_mask, crop, infotext)


def _note_fill(mask: MaskSpec, infotext: dict[str, Any]) -> None:
    if mask.fill in _FILL_LABELS:
        infotext["Masked content"] = _FILL_LABELS[mask.fill]
