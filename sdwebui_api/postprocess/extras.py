"""The "extras": enlarging finished pictures and restoring faces (`extra-single-image`, `extra-batch-images`).

Follows A1111 `scripts/postprocessing_{upscale,gfpgan,codeformer}.py` and `modules/postprocessing.py`, but for
`upscale_first`: A1111 1.10 has the field and upscales first whatever it says.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from sdwebui_api.errors import BadRequest, PayloadTooLarge
from sdwebui_api.imaging.metadata import quote, read_info_from_image
from sdwebui_api.imaging.upscale import WEIGHT_FREE_UPSCALERS, Upscaler, find_upscaler
from sdwebui_api.postprocess.faces import RestoreFaces

# Restorer -> the field that says how much of its work to see. In the order in which they work.
_VISIBILITY = {"GFPGAN": "gfpgan_visibility", "CodeFormer": "codeformer_visibility"}
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


class FaceRestorers(Protocol):
    """Those of this server."""

    def restorer(self, name: str, field: str | None = None) -> RestoreFaces:
        """Raises BadRequest naming `field` when files of it are missing."""
        ...


def run_extras(
    image: Image.Image,
    settings: ExtrasSettings,
    upscalers: Mapping[str, Upscaler] = WEIGHT_FREE_UPSCALERS,
    faces: FaceRestorers | None = None,
) -> ExtrasResult:
    """`image` worked on as `settings` say.

    Raises NotFound for an unknown upscaler, BadRequest for a face restorer whose files are missing, and
    PayloadTooLarge when the result would be huge, each naming the request's field.
    """
    restorers = _face_restorers(settings, faces)
    infotext, items = read_info_from_image(image)
    if infotext:
        items["parameters"] = infotext
    info: dict[str, Any] = {}
    result = _rgb_or_rgba(image)
    if not settings.upscale_first:
        result = _with_restored_faces(result, settings, restorers, info)
    result = _upscaled(result, settings, upscalers, info)
    if settings.upscale_first:
        result = _with_restored_faces(result, settings, restorers, info)
    text = ", ".join(key if key == value else f"{key}: {quote(value)}" for key, value in info.items())
    carried = {key: value for key, value in items.items() if isinstance(value, str)}
    return ExtrasResult(result, text, {**carried, "postprocessing": text})


def html_info(infotext: str) -> str:
    """`infotext` as `html_info` of an answer shows it; of the last picture when there are several."""
    return "<p>" + "<br>\n".join(html.escape(line) for line in infotext.split("\n")) + "</p>"


def _face_restorers(settings: ExtrasSettings, faces: FaceRestorers | None) -> dict[str, RestoreFaces]:
    """Those that the settings want, asked for before anything is done."""
    wanted = {name: field for name, field in _VISIBILITY.items() if getattr(settings, field) > 0}
    if wanted and faces is None:
        raise BadRequest("no faces can be restored here", field=next(iter(wanted.values())))
    return {name: faces.restorer(name, field) for name, field in wanted.items()} if faces is not None else {}


def _with_restored_faces(
    image: Image.Image, settings: ExtrasSettings, restorers: Mapping[str, RestoreFaces], info: dict[str, Any]
) -> Image.Image:
    for name, restore in restorers.items():
        image, visibility = image.convert("RGB"), getattr(settings, _VISIBILITY[name])
        restored = restore(image, settings.codeformer_weight)
        image = restored if visibility >= 1 else Image.blend(image, restored, visibility)
        info[f"{name} visibility"] = round(visibility, 3)
        if name == "CodeFormer":
            info["CodeFormer weight"] = round(settings.codeformer_weight, 3)
    return image


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
