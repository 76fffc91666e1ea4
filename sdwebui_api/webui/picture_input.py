"""Where pictures are brought to the page, and what reads them."""

from __future__ import annotations

import logging
from abc import ABCMeta
from pathlib import Path

import gradio as gr
from gradio.data_classes import ImageData
from PIL import Image

from sdwebui_api.errors import BadRequest, PayloadTooLarge
from sdwebui_api.imaging.codec import read_image
from sdwebui_api.webui.localization import t

ORIENTATION, LYING = 0x0112, range(5, 9)
"""EXIF's tag, and those of its values by which width and height change places."""
log = logging.getLogger(__name__)


def _preprocess(self: gr.Image, payload: ImageData | None) -> object:
    try:
        return gr.Image.preprocess(self, payload)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        log.info("a picture that was brought to the page cannot be read: %s", error)
        return payload.path if payload is not None else None


# Not by a class statement: gradio's metaclass answers that with a file of its own (.pyi) beside this one.
PictureInput: type[gr.Image] = ABCMeta.__new__(
    type(gr.Image),
    "PictureInput",
    (gr.Image,),
    {"__module__": __name__, "is_template": True, "preprocess": _preprocess},
)
"""`gr.Image(type="filepath")` that takes whatever is dropped on it.

Gradio opens the file before a handler is called, and refuses the call with paths of the server in its words when it
cannot: one broken picture anywhere on a tab, and nothing on it works any more. Here its path goes on, and what reads
it says what is wrong; a picture that is not used does no harm.
"""


def read_picture(path: str | Path) -> Image.Image:
    """Upright, 8 bits per channel. Raises BadRequest for what is no picture."""
    try:
        return read_image(Path(path).read_bytes(), "picture")
    except PayloadTooLarge:
        raise
    except (OSError, BadRequest):
        raise _no_picture(path) from None


def size_of(path: str | Path) -> tuple[int, int]:
    """Width and height as the picture is seen, without unpacking it. Raises BadRequest for what is no picture."""
    try:
        with Image.open(path) as image:
            wide, high = image.size
            return (high, wide) if image.getexif().get(ORIENTATION) in LYING else (wide, high)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise _no_picture(path) from None


def _no_picture(path: str | Path) -> BadRequest:
    return BadRequest(t("{name} is no picture", name=Path(path).name))
