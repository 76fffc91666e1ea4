"""A finished request's pictures as the files that EAS clients know: names, folders, seeds."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sdwebui_api.generation.infotext_parse import parse_generation_parameters
from sdwebui_api.generation.request import GeneratedImage, GenerationRequest, GenerationResult
from sdwebui_api.generation.saving import encode_file
from sdwebui_api.imaging.codec import MEDIA_TYPES, output_format
from sdwebui_api.storage.results import ResultFile

MASK_FOLDER = "controlnet_mask"


@dataclass(frozen=True)
class ResultPicture:
    """`file` is to be written, unless the picture lies at `saved_path` already."""

    file: ResultFile | None
    saved_path: str
    is_map: bool
    """A control unit's detected map."""


def result_pictures(
    request: GenerationRequest, result: GenerationResult, *, reuse_saved: bool, now: datetime | None = None
) -> list[ResultPicture]:
    """Grid, samples (each followed by its masks, where asked for) and maps, encoded: takes time.

    `reuse_saved`: pictures that the output settings have saved are not written again.
    """
    now = now or datetime.now()
    seeds = iter(seeds_of(result))
    seed = 0
    pictures = []
    for image in result.images:
        seed = next(seeds, seed) if image.role == "sample" else seed
        if reuse_saved and image.saved_path:
            pictures.append(ResultPicture(None, image.saved_path, is_map=False))
        else:
            file = _file(request, image, seed, now)
            pictures.append(ResultPicture(file, "", is_map=image.role == "detected_map"))
    return pictures


def seeds_of(result: GenerationResult) -> list[int]:
    """One per sample. A script's pictures are described by their own infotexts alone."""
    samples = [image for image in result.images if image.role == "sample"]
    drawn = result.info.get("all_seeds") or [result.info.get("seed", 0)]
    return [_seed(image, drawn, index) for index, image in enumerate(samples)]


def _seed(image: GeneratedImage, drawn: Sequence[int], index: int) -> int:
    read: Any = parse_generation_parameters(image.infotext, infotext_styles="Ignore").get("Seed", "")
    return int(read) if str(read).isdecimal() else int(drawn[min(index, len(drawn) - 1)])


def _file(request: GenerationRequest, image: GeneratedImage, seed: int, now: datetime) -> ResultFile:
    is_grid = image.role == "grid"
    infotext = image.infotext if image.role in ("grid", "sample") else None
    data, extension = encode_file(image.image, request.options, infotext, grid=is_grid)
    path = f"{_folder(request, image)}/{now:%Y-%m-%d}/{_name(image, seed, now)}.{extension}"
    return ResultFile(path, data, MEDIA_TYPES[output_format(extension)])


def _folder(request: GenerationRequest, image: GeneratedImage) -> str:
    if image.role == "detected_map":
        return MASK_FOLDER
    return f"{request.kind}-{'grids' if image.role == 'grid' else 'images'}"


def _name(image: GeneratedImage, seed: int, now: datetime) -> str:
    stem = f"{now:%H%M%S}-{uuid.uuid4()}"
    if image.role == "grid":
        return f"grid-{stem}"
    if image.role == "detected_map":
        return stem
    return f"{stem}-{seed}" + ("" if image.role == "sample" else f"-{image.role.replace('_', '-')}")
