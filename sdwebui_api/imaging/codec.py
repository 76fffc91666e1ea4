"""Pictures as they travel: base64 in, encoded bytes and base64 out.

What comes in is hostile until proven otherwise: only plain raster formats are opened, the size named in the
header is checked before anything is unpacked, and whatever is wrong names the request's field.
"""

from __future__ import annotations

import base64
import binascii
import io
import logging
import struct
import zlib
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from sdwebui_api.errors import BadRequest, PayloadTooLarge
from sdwebui_api.imaging.metadata import exif_with_comment

log = logging.getLogger(__name__)

MAX_PIXELS = 8192 * 8192
"""Largest picture accepted: 67 megapixels, 256 MB once unpacked to RGBA."""

INPUT_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "ICO")
OUTPUT_FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP", "avif": "AVIF", "gif": "GIF"}
MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "AVIF": "image/avif", "GIF": "image/gif"}
_SIDE_LIMITS = {"JPEG": 65535, "WEBP": 16383}
_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error,
    RuntimeError, AttributeError, AssertionError, ArithmeticError,
)  # fmt: skip
"""Everything Pillow's plugins raise for a damaged file; AVIF's raises RuntimeError."""


def decode_image(text: str | bytes, field: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in `text`: base64, bare or as a data URI, white space allowed anywhere; or the file itself.

    EXIF orientation is applied, 16-bit and CMYK pictures become 8-bit; `info` keeps the file's text.
    Raises BadRequest naming `field` for what is no picture, PayloadTooLarge above `max_pixels`.
    """
    return read_image(text if isinstance(text, bytes) else decode_base64(text, field), field, max_pixels)


def decode_base64(text: str, field: str) -> bytes:
    """The bytes that `text` (bare base64 or a base64 data URI) stands for. Raises BadRequest naming `field`."""
    if not isinstance(text, str) or not text.strip():
        raise BadRequest("no image given: expected base64 text", field=field)
    text = text.strip()
    if text[:8].lower().startswith(("http://", "https://")):
        raise BadRequest("this picture is not fetched by its address: send it as base64", field=field)
    if text[:5].lower() == "data:":
        header, comma, text = text.partition(",")
        if not comma or not header.lower().rstrip().endswith(";base64"):
            raise BadRequest("a data URI must be base64: data:image/png;base64,...", field=field)
    text = "".join(text.split()).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"invalid base64: {error}", field=field) from None


def read_image(data: bytes, field: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in the file `data`, fully unpacked. Raises as `decode_image`."""
    try:
        image = Image.open(io.BytesIO(data), formats=INPUT_FORMATS)
    except Image.DecompressionBombError as error:
        raise PayloadTooLarge(f"image too large: {error}", field=field) from None
    except _BROKEN:
        raise BadRequest("not an image in a known format", field=field) from None
    if image.width * image.height > max_pixels:
        size = f"{image.width}x{image.height}"
        raise PayloadTooLarge(f"image too large: {size} is more than {max_pixels} pixels", field=field)
    try:
        image.load()
        return _normalised(image)
    except (Image.DecompressionBombError, MemoryError) as error:
        raise PayloadTooLarge(f"image too large: {error}", field=field) from None
    except _BROKEN as error:
        raise BadRequest(f"broken image: {error}", field=field) from None


def _normalised(image: Image.Image) -> Image.Image:
    """`image` upright, 8 bits per channel, with a palette's or key colour's transparency as an alpha channel. Grey with
    alpha loses the alpha: A1111 reads only RGBA's."""
    try:
        image = ImageOps.exif_transpose(image)
    except _BROKEN as error:
        log.debug("EXIF orientation ignored: %s", error)
    info = image.info
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(np.clip(np.nan_to_num(np.asarray(image)), 0, 255).astype(np.uint8))
    elif image.mode in ("RGB", "P") and isinstance(info.get("transparency"), bytes):
        image = image.convert("RGBA")
    elif image.mode not in ("RGB", "RGBA", "L", "1", "P"):
        image = image.convert("RGB")
    image.info = info
    return image


def encode_image(
    image: Image.Image,
    image_format: str = "png",
    *,
    quality: float = 80,
    webp_lossless: bool = False,
    infotext: str | None = None,
    items: Mapping[str, str] | None = None,
) -> bytes:
    """`image` as a file in `image_format` (`png`, `jpg`, `webp`, `avif` or `gif`; option `samples_format`).

    `infotext` goes where A1111 and others look for it: the PNG text chunk `parameters`, the EXIF user comment
    of JPEG, WebP and AVIF, the comment of GIF. `items` are further PNG text chunks. Formats without alpha get RGB;
    pictures too large for JPEG or WebP raise BadRequest, as do unknown formats.
    """
    kind = output_format(image_format)
    limit = _SIDE_LIMITS.get(kind)
    if limit and max(image.size) > limit:
        raise BadRequest(f"{kind} holds at most {limit} pixels a side", field="samples_format")
    buffer = io.BytesIO()
    if kind == "PNG":
        image.save(buffer, "PNG", pnginfo=_png_text(infotext, items))
    elif kind == "GIF":
        image.convert("RGB").save(buffer, "GIF", **({"comment": infotext} if infotext else {}))
    else:
        exif = {"exif": exif_with_comment(infotext)} if infotext is not None else {}
        # A1111 drops the alpha channel for these formats, WebP included.
        image = image if image.mode in ("RGB", "L") else image.convert("RGB")
        lossless = {"lossless": webp_lossless} if kind == "WEBP" else {}
        image.save(buffer, kind, quality=int(quality), **lossless, **exif)
    return buffer.getvalue()


def output_format(image_format: str) -> str:
    """Pillow's name of the format that `samples_format` means. Raises BadRequest with the choices."""
    kind = OUTPUT_FORMATS.get(str(image_format).lower().lstrip("."))
    if kind is None:
        raise BadRequest(f"unknown image format {image_format!r}", field="samples_format", choices=OUTPUT_FORMATS)
    return kind


def _png_text(infotext: str | None, items: Mapping[str, str] | None) -> PngImagePlugin.PngInfo | None:
    chunks = dict(items or {})
    if infotext is not None:
        chunks["parameters"] = infotext
    if not chunks:
        return None
    text = PngImagePlugin.PngInfo()
    for key, value in chunks.items():
        text.add_text(key, value)
    return text


def to_base64(data: bytes) -> str:
    """`data` as bare base64 text, what `images` in an answer holds."""
    return base64.b64encode(data).decode("ascii")
