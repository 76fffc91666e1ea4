"""Pictures by URL in request bodies: which places of a body hold pictures, and the fetching before a job is submitted.

A *walk* is a function that rebuilds a body with every picture's text passed through `swap(text, field)`. It is called
twice: to learn which URLs there are, then to put the fetched files in their place.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sdwebui_api.api.services import Services
from sdwebui_api.errors import BadRequest
from sdwebui_api.storage.links import is_link

T = TypeVar("T")

Picture = str | bytes
"""Text as the client sent it, or the file that was fetched."""
Swap = Callable[[str, str], Picture]

IMAGE_LINK = "image_link"
CONTROLNET = "controlnet"
UNIT_PICTURES = ("image", "input_image", "mask", "mask_image", "effective_region_mask", IMAGE_LINK)
_DEEPEST = 4
"""Lists within lists of a unit's pictures; nobody means more, and JSON may nest a thousand."""


@asynccontextmanager
async def linked(services: Services, walk: Callable[[Swap], T]) -> AsyncIterator[T]:
    """What `walk` builds with the files in place of their URLs. Leave the block when the files are used up.

    Raises what `LinkFetcher.fetched` raises; Busy, before anything is fetched, on a full server; BadRequest (422) where
    the setting `api_enable_requests` is off.
    """
    wanted: dict[str, str] = {}

    def note(text: str, field: str) -> Picture:
        if is_link(text):
            wanted.setdefault(text, field)
        return text

    as_sent = walk(note)
    if not wanted:
        yield as_sent
        return
    options = services.options.snapshot()
    if services.links is None or not options.api_enable_requests:
        raise BadRequest("this server fetches no pictures by URL: send base64", field=next(iter(wanted.values())))
    services.runner.check_admission()
    begun = time.perf_counter()
    async with services.links.fetched(wanted, options.api_useragent) as files:
        services.metrics.stage_ended("fetch", time.perf_counter() - begun)
        yield walk(lambda text, field: files.get(text, text))


def generation_pictures(kind: str, values: Mapping[str, Any], swap: Swap) -> dict[str, Any]:
    """Of a txt2img or img2img body: what of it names pictures, rebuilt. `values`: the body as a dictionary.

    `alwayson_scripts.image_link` takes the place of img2img's `init_images`, and is left out here. Raises BadRequest
    when it is no URL.
    """
    entries: Mapping[str, Any] = values["alwayson_scripts"]
    left = {name: _entry(name, entry, swap) for name, entry in entries.items() if name != IMAGE_LINK}
    filled: dict[str, Any] = {"alwayson_scripts": left}
    if kind == "img2img":
        for name in ("mask", "latent_mask"):
            filled[name] = _swapped(values[name], name, swap)
        filled["init_images"] = _init_images(values, swap)
    elif values["enable_hr"]:
        filled["firstpass_image"] = _swapped(values["firstpass_image"], "firstpass_image", swap)
    return filled


def _init_images(values: Mapping[str, Any], swap: Swap) -> list[Any] | None:
    link = values["alwayson_scripts"].get(IMAGE_LINK)
    if link not in (None, ""):
        field = f"alwayson_scripts.{IMAGE_LINK}"
        if not is_link(link):
            raise BadRequest("expected an address that begins with http:// or https://", field=field)
        return [swap(link, field)]
    images: list[Any] | None = values["init_images"]
    return images and [_swapped(text, f"init_images[{index}]", swap) for index, text in enumerate(images)]


def _entry(name: str, entry: Any, swap: Swap) -> Any:
    if name.strip().lower() != CONTROLNET or not isinstance(entry, Mapping):
        return entry
    return {**entry, "args": _units(entry.get("args"), f"alwayson_scripts.{name}.args", swap)}


def _units(units: Any, field: str, swap: Swap) -> Any:
    if isinstance(units, Mapping):
        return _unit(units, f"{field}[0]", swap)
    if isinstance(units, list):
        return [_unit(unit, f"{field}[{index}]", swap) for index, unit in enumerate(units)]
    return units


def _unit(unit: Any, field: str, swap: Swap) -> Any:
    """A unit that is off is left alone: nothing is fetched for it."""
    if not isinstance(unit, Mapping) or str(unit.get("enabled", False)).strip().lower() in ("false", "none", "0"):
        return unit
    left_out = ("image", "input_image") if is_link(unit.get(IMAGE_LINK)) else ()
    pictures = {name: unit[name] for name in UNIT_PICTURES if name in unit and name not in left_out}
    return {**unit, **{name: _nested(value, f"{field}.{name}", swap) for name, value in pictures.items()}}


def _nested(value: Any, field: str, swap: Swap, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        return value
    if isinstance(value, Mapping):
        return {name: _nested(part, field, swap, depth + 1) for name, part in value.items()}
    if isinstance(value, list):
        return [_nested(part, field, swap, depth + 1) for part in value]
    return _swapped(value, field, swap)


def _swapped(value: Any, field: str, swap: Swap) -> Any:
    return swap(value, field) if isinstance(value, str) else value
