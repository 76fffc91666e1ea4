"""The "extras": enlarging finished pictures (`/sdapi/v1/extra-single-image`, `extra-batch-images`).

Follows A1111 `scripts/postprocessing_upscale.py` and `modules/postprocessing.py`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from sdwebui_api.errors import BadRequest, PayloadTooLarge
from sdwebui_api.imaging.metadata import quote, read_info_from_image
from sdwebui_api.imaging.upscale import WEIGHT_FREE_UPSCALERS, Upscaler, find_upscaler

MAX_RESULT_PIXELS = 2 * 8192 * 8192


@dataclass(frozen=True)
class ExtrasSettings:
    """The fields of an extras request, with A1111's names and defaults."""

    resize_mode: int = 0
    """0: `upscaling_resize` times as large; 1: until it covers `upscaling_resize_w` x `upscaling_resize_h`."""
    upscaling_resize: float = 2
    upscaling_resize_w: int = 512
    upscaling_resize_h: int = 512
    upscaling_crop: bool = True
    upscaler_1: str = "None"
    """With "None" the picture keeps its size, whatever `upscaler_2` says."""
    upscaler_2: str = "None"
    extras_upscaler_2_visibility: float = 0
    upscale_first: bool = False
    """Whether to upscale before restoring faces."""
    gfpgan_visibility: float = 0
    codeformer_visibility: float = 0
    codeformer_weight: float = 0


@dataclass(frozen=True)
class ExtrasResult:
    """One finished picture, what was done to it, and the text chunks that its file should carry."""

    image: Image.Image
    infotext: str
    items: dict[str, str] = field(default_factory=dict)
    """The start image's text (`parameters` and others) and `postprocessing`."""


def run_extras(
    image: Image.Image, settings: ExtrasSettings, upscalers: Mapping[str, Upscaler] = WEIGHT_FREE_UPSCALERS
) -> ExtrasResult:
    """`image` worked on as `settings` say.

    Raises NotFound for an unknown upscaler, BadRequest for face restoration (which is not built), and
    PayloadTooLarge when the result would be huge, each naming the request's field.
    """
    _refuse_face_restoration(settings)
    infotext, items = read_info_from_image(image)
    if infotext:
        items["parameters"] = infotext
    info: dict[str, Any] = {}
    result = _upscaled(_rgb_or_rgba(image), settings, upscalers, info)
    text = ", ".join(key if key == value else f"{key}: {quote(value)}" for key, value in info.items())
    carried = {key: value for key, value in items.items() if isinstance(value, str)}
    return ExtrasResult(result, text, {**carried, "postprocessing": text})


def html_info(infotext: str) -> str:
    """`infotext` as `html_info` of an answer shows it; of the last picture when there are several."""
    return "<p>" + "<br>\n".join(html.escape(line) for line in infotext.split("\n")) + "</p>"


def _refuse_face_restoration(settings: ExtrasSettings) -> None:
    for name in ("gfpgan_visibility", "codeformer_visibility"):
        if getattr(settings, name) > 0:
            raise BadRequest(
                "this version restores no faces: weights in model_store/GFPGAN and model_store/Codeformer are not used",
                field=name,
            )


def _rgb_or_rgba(image: Image.Image) -> Image.Image:
    return image if image.mode in ("RGB", "RGBA") else image.convert("RGB")


def _upscaled(
    image: Image.Image, settings: ExtrasSettings, upscalers: Mapping[str, Upscaler], info: dict[str, Any]
) -> Image.Image:
    first = find_upscaler(settings.upscaler_1 or "None", "upscaler_1", upscalers)
    second = find_upscaler(settings.upscaler_2 or "None", "upscaler_2", upscalers)
    if first.name == "None":
        return image
    result = _enlarged(image, settings, first, info)
    info["Postprocess upscaler"] = first.name
    visibility = settings.extras_upscaler_2_visibility
    if second.name != "None" and visibility > 0:
        other = _enlarged(image, settings, second, info)
        result = Image.blend(result, other.convert(result.mode), visibility)
        info["Postprocess upscaler 2"] = second.name
    return result


def _enlarged(image: Image.Image, settings: ExtrasSettings, upscaler: Upscaler, info: dict[str, Any]) -> Image.Image:
    if settings.resize_mode == 0:
        # The wire's field is a float: A1111 says 2.0 also where the client wrote 2.
        info["Postprocess upscale by"] = float(settings.upscaling_resize)
        _check_size(image, settings.upscaling_resize, "upscaling_resize")
        return upscaler.upscale(image, settings.upscaling_resize)
    width, height = settings.upscaling_resize_w, settings.upscaling_resize_h
    info["Postprocess upscale to"] = f"{width}x{height}"
    scale = max(width / image.width, height / image.height)
    _check_size(image, scale, "upscaling_resize_w")
    result = upscaler.upscale(image, scale)
    if settings.upscaling_crop:
        canvas = Image.new("RGB", (width, height))
        canvas.paste(result, box=(width // 2 - result.width // 2, height // 2 - result.height // 2))
        info["Postprocess crop to"] = f"{width}x{height}"
        result = canvas
    return result


def _check_size(image: Image.Image, scale: float, name: str) -> None:
    if not 0 < scale < float("inf"):
        raise BadRequest(f"cannot scale a picture {scale} times", field=name)
    if image.width * image.height * scale * scale > MAX_RESULT_PIXELS:
        raise PayloadTooLarge(f"the result would have more than {MAX_RESULT_PIXELS} pixels", field=name)
