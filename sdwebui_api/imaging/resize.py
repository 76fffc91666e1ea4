"""Bringing a picture to a wanted size: A1111's resize modes (`modules/images.py`, resize_image) and flattening."""

from __future__ import annotations

from enum import IntEnum

from PIL import Image, ImageColor

from sdwebui_api.errors import BadRequest, PayloadTooLarge
from sdwebui_api.imaging.upscale import LANCZOS, Upscaler

MAX_UNCUT_PIXELS = 2**27
"""What a picture may become before its overhang is cut: 1x8000 would fill 512x512 by way of 8 GB."""


class ResizeMode(IntEnum):
    """`resize_mode` of img2img. LATENT leaves the picture alone: the latent is resized instead."""

    JUST_RESIZE = 0
    CROP = 1
    FILL = 2
    LATENT = 3


def resize_image(
    mode: int, image: Image.Image, width: int, height: int, upscaler: Upscaler | None = None
) -> Image.Image:
    """`image` at `width` x `height` pixels.

    Mode 0 ignores the aspect ratio, 1 keeps it and cuts the overhang, 2 keeps it and fills the bars by
    stretching the picture's border. Modes 1 and 2 return RGB whatever comes in, as A1111 does.
    `upscaler` (None: Lanczos) serves when the picture grows; masks (mode L) always use Lanczos. Raises PayloadTooLarge
    where mode 1 would have to cut nearly everything off.
    """
    if mode == ResizeMode.JUST_RESIZE:
        return _scaled(image, width, height, upscaler)
    if mode == ResizeMode.CROP:
        return _cropped(image, width, height, upscaler)
    return _filled(image, width, height, upscaler)


def flatten(image: Image.Image, background: str) -> Image.Image:
    """RGB version of `image`; transparent parts show `background`, a CSS colour. Raises BadRequest for no colour."""
    if image.mode == "RGBA":
        try:
            colour = ImageColor.getcolor(background, "RGBA")
        except ValueError:
            raise BadRequest(f"{background!r} is not a colour", field="img2img_background_color") from None
        canvas = Image.new("RGBA", image.size, colour)
        canvas.paste(image, mask=image)
        image = canvas
    return image.convert("RGB")


def _scaled(image: Image.Image, width: int, height: int, upscaler: Upscaler | None) -> Image.Image:
    if upscaler is None or upscaler.name == "None" or image.mode == "L":
        return image.resize((width, height), resample=LANCZOS)
    scale = max(width / image.width, height / image.height)
    if scale > 1.0:
        image = upscaler.upscale(image, scale)
    if image.size != (width, height):
        image = image.resize((width, height), resample=LANCZOS)
    return image


def _cropped(image: Image.Image, width: int, height: int, upscaler: Upscaler | None) -> Image.Image:
    wider = width / height > image.width / image.height
    inner_width = width if wider else image.width * height // image.height
    inner_height = image.height * width // image.width if wider else height
    if inner_width * inner_height > MAX_UNCUT_PIXELS:
        size, target = f"{image.width}x{image.height}", f"{width}x{height}"
        raise PayloadTooLarge(f"a picture of {size} is too long and thin to be cropped to {target}")
    inner = _scaled(image, inner_width, inner_height, upscaler)
    return _centred(inner, width, height)


def _filled(image: Image.Image, width: int, height: int, upscaler: Upscaler | None) -> Image.Image:
    ratio, own_ratio = width / height, image.width / image.height
    inner_width = width if ratio < own_ratio else max(1, image.width * height // image.height)
    inner_height = height if ratio >= own_ratio else max(1, image.height * width // image.width)
    inner = _scaled(image, inner_width, inner_height, upscaler)
    canvas = _centred(inner, width, height)
    if ratio < own_ratio:
        _fill_bars_above_and_below(canvas, inner)
    elif ratio > own_ratio:
        _fill_bars_left_and_right(canvas, inner)
    return canvas


def _centred(inner: Image.Image, width: int, height: int) -> Image.Image:
    canvas = Image.new("RGB", (width, height))
    canvas.paste(inner, box=(width // 2 - inner.width // 2, height // 2 - inner.height // 2))
    return canvas


def _fill_bars_above_and_below(canvas: Image.Image, inner: Image.Image) -> None:
    # A box of height 0 makes Pillow sample the border alone: its bicubic mix of the outermost rows.
    width, bar = canvas.width, canvas.height // 2 - inner.height // 2
    if bar > 0:
        top = inner.resize((width, bar), box=(0, 0, width, 0))
        bottom = inner.resize((width, bar), box=(0, inner.height, width, inner.height))
        canvas.paste(top, box=(0, 0))
        canvas.paste(bottom, box=(0, bar + inner.height))


def _fill_bars_left_and_right(canvas: Image.Image, inner: Image.Image) -> None:
    height, bar = canvas.height, canvas.width // 2 - inner.width // 2
    if bar > 0:
        left = inner.resize((bar, height), box=(0, 0, 0, height))
        right = inner.resize((bar, height), box=(inner.width, 0, inner.width, height))
        canvas.paste(left, box=(0, 0))
        canvas.paste(right, box=(bar + inner.width, 0))
