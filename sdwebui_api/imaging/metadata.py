"""Generation parameters inside picture files: where they are found and how they are written.

Readers follow A1111 `modules/images.py` (read_info_from_image): PNG text `parameters`, the EXIF user comment,
a GIF's comment, and NovelAI's own PNG text, which is rewritten as an infotext.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import piexif
import piexif.helper
from PIL import ExifTags, Image

log = logging.getLogger(__name__)

TECHNICAL_KEYS = frozenset(
    (
        *(
            "jfif",
            "jfif_version",
            "jfif_unit",
            "jfif_density",
            "dpi",
            "exif",
            "icc_profile",
            "chromaticity",
            "photoshop",
        ),
        *("loop", "background", "timestamp", "duration", "progressive", "progression"),
    )
)
"""Keys of Pillow's `info` that describe the file, not the picture: never reported as items."""

NOVELAI_SAMPLERS: Mapping[str, str] = MappingProxyType(
    {
        "k_euler_ancestral": "Euler a",
        "k_euler": "Euler",
        "k_lms": "LMS",
        "k_heun": "Heun",
        "k_dpm_2": "DPM2",
        "k_dpm_2_ancestral": "DPM2 a",
        "k_dpmpp_2m": "DPM++ 2M",
        "k_dpmpp_2s_ancestral": "DPM++ 2S a",
        "k_dpmpp_sde": "DPM++ SDE",
        "k_dpm_fast": "DPM fast",
        "k_dpm_adaptive": "DPM adaptive",
        "ddim": "DDIM",
        "plms": "PLMS",
    }
)


def read_info_from_image(image: Image.Image) -> tuple[str | None, dict[str, Any]]:
    """The infotext in `image` (None when it has none), and the file's other text by key."""
    items: dict[str, Any] = {str(key): value for key, value in image.info.items()}
    infotext = items.pop("parameters", None)
    if "exif" in items:
        infotext = _exif_comment(items["exif"]) or infotext
    elif "comment" in items:
        infotext = _as_text(items["comment"])
    items = {key: value for key, value in items.items() if key not in TECHNICAL_KEYS}
    if items.get("Software") == "NovelAI":
        infotext = _novelai_infotext(items, image.size) or infotext
    return infotext, items


def text_items(image: Image.Image) -> dict[str, str]:
    """The entries of `image.info` that a PNG can carry on as text chunks."""
    return {key: value for key, value in (image.info or {}).items() if isinstance(key, str) and isinstance(value, str)}


def exif_with_comment(text: str | None) -> bytes:
    """An EXIF block whose user comment is `text`, in the form A1111 writes."""
    comment = piexif.helper.UserComment.dump(text or "", encoding="unicode")
    return piexif.dump({"Exif": {piexif.ExifIFD.UserComment: comment}})


def quote(value: Any) -> str:
    """`value` as text; as a JSON string when it holds a separator of the format (comma, colon, line break)."""
    text = str(value)
    if not any(separator in text for separator in ",\n:"):
        return text
    return json.dumps(value if isinstance(value, str) else text, ensure_ascii=False)


def unquote(text: str) -> str:
    """The reverse of `quote`; text that is not quoted, or wrongly, comes back as it is."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text


def _exif_comment(data: Any) -> str:
    """The user comment in an EXIF block; empty when there is none or the block is damaged.

    Read by Pillow: piexif takes a block that it does not know for the name of a file, which it opens, and a wrong count
    in one keeps it busy for minutes.
    """
    if not isinstance(data, bytes):  # a text chunk that is called so
        return ""
    try:
        exif = Image.Exif()
        exif.load(data)
        comment: Any = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error) as error:
        log.debug("EXIF ignored: %s", error)
        return ""
    if not isinstance(comment, bytes):
        return str(comment)
    try:
        return piexif.helper.UserComment.load(comment)
    except ValueError:
        return comment.decode("utf-8", errors="ignore")


def _as_text(value: Any) -> str:
    return value.decode("utf-8", errors="ignore") if isinstance(value, bytes) else str(value)


def _novelai_infotext(items: Mapping[str, Any], size: tuple[int, int]) -> str | None:
    """An infotext from NovelAI's `Description` and `Comment`; None when they are not as expected."""
    try:
        settings = json.loads(items["Comment"])
        sampler = NOVELAI_SAMPLERS.get(settings["sampler"], "Euler a")
        return (
            f"{items['Description']}\nNegative prompt: {settings['uc']}\n"
            f"Steps: {settings['steps']}, Sampler: {sampler}, CFG scale: {settings['scale']}, "
            f"Seed: {settings['seed']}, Size: {size[0]}x{size[1]}, Clip skip: 2, ENSD: 31337"
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        log.debug("NovelAI metadata ignored: %r", error)
        return None
