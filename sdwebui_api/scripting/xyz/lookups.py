"""Axes whose values are names: samplers, checkpoints, VAEs, styles, and the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sdwebui_api.catalog.checkpoints import CheckpointFile
from sdwebui_api.catalog.upscalers import HiresUpscalers
from sdwebui_api.errors import BadRequest, NotFound, nearest
from sdwebui_api.generation.request import MAX_PIXELS_PER_BATCH, MAX_SIDE, GenerationRequest
from sdwebui_api.sampling.names import find_schedule
from sdwebui_api.scripting.hooks import Files
from sdwebui_api.scripting.xyz.axis import Names, with_hires, with_options

FIELD = "script_args"
NO_CHECKPOINT = ("", "none")


# -- the prompt --------------------------------------------------------------------------------------------------------


def replace_in_prompt(
    request: GenerationRequest, value: str, values: Sequence[str], _names: Names
) -> GenerationRequest:
    """Prompt S/R: the first of `values` is searched for and replaced, in both prompts."""
    wanted = values[0]
    if wanted not in request.prompt and wanted not in request.negative_prompt:
        raise BadRequest(f"Prompt S/R did not find {wanted[:200]} in prompt or negative prompt.", field=FIELD)
    return replace(
        request,
        prompt=request.prompt.replace(wanted, value),
        negative_prompt=request.negative_prompt.replace(wanted, value),
    )


def reorder_prompt(
    request: GenerationRequest, value: Sequence[str], _values: Sequence[Any], _names: Names
) -> GenerationRequest:
    """Prompt order: the parts `value`, in that order, where the prompt has them in another."""
    rest, between = request.prompt, []
    for part in sorted(value, key=request.prompt.find):
        before, found, rest = rest.partition(part)
        if not found:
            raise BadRequest(f"Prompt order did not find {part[:200]} in the prompt", field=FIELD)
        between.append(before)
    return replace(request, prompt="".join(a + b for a, b in zip(between, value, strict=True)) + rest)


def add_styles(request: GenerationRequest, value: str, _values: Sequence[Any], _names: Names) -> GenerationRequest:
    """Comma separated names of styles, on top of the request's own."""
    return replace(request, styles=(*request.styles, *value.split(",")))


# -- samplers ----------------------------------------------------------------------------------------------------------


def set_sampler(request: GenerationRequest, value: str, _values: Sequence[Any], names: Names) -> GenerationRequest:
    sampler, schedule = names.sampler_names(value, None, sampler_field=FIELD)
    brings_schedule = schedule != "Automatic" and sampler.lower() != value.strip().lower()
    return replace(request, sampler=sampler, schedule=schedule if brings_schedule else request.schedule)


def set_hires_sampler(
    request: GenerationRequest, value: str, _values: Sequence[Any], names: Names
) -> GenerationRequest:
    return with_hires(request, sampler=names.sampler_names(value, None, sampler_field=FIELD)[0])


def set_schedule(request: GenerationRequest, value: str, _values: Sequence[Any], _names: Names) -> GenerationRequest:
    return replace(request, schedule=find_schedule(value, field=FIELD).label)


def set_unipc_order(request: GenerationRequest, value: int, _values: Sequence[Any], _names: Names) -> GenerationRequest:
    return with_options(request, {"uni_pc_order": max(1, min(value, request.steps - 1))})


# -- model files -------------------------------------------------------------------------------------------------------


def set_checkpoint(request: GenerationRequest, value: str, _values: Sequence[Any], names: Names) -> GenerationRequest:
    checkpoint = names.files.checkpoints.find(value, FIELD)
    vae = names.files.vaes.resolve(request.options.sd_vae, checkpoint, FIELD)
    request = with_options(request, {"sd_model_checkpoint": checkpoint.title})
    return replace(request, checkpoint=checkpoint, vae=vae)


def set_vae(request: GenerationRequest, value: str, _values: Sequence[Any], names: Names) -> GenerationRequest:
    vae = names.files.vaes.resolve(value, request.checkpoint, FIELD)
    return replace(with_options(request, {"sd_vae": value}), vae=vae)


def set_refiner(request: GenerationRequest, value: str, _values: Sequence[Any], names: Names) -> GenerationRequest:
    checkpoint: CheckpointFile | None = None
    if value.strip().lower() not in NO_CHECKPOINT:
        checkpoint = names.files.checkpoints.find(value, FIELD)
    vae = names.files.vaes.resolve(request.options.sd_vae, checkpoint, FIELD) if checkpoint else None
    return replace(request, refiner_checkpoint=checkpoint, refiner_vae=vae)


def set_hires_upscaler(
    request: GenerationRequest, value: str, _values: Sequence[Any], names: Names
) -> GenerationRequest:
    if value not in names.upscaler_names:
        choices = nearest(value, names.upscaler_names)
        raise NotFound(f"Upscaler {value[:100]!r} not found", field=FIELD, choices=choices)
    return with_hires(request, upscaler=value)


def checkpoint_names(files: Files) -> list[str]:
    """Without computing hashes: there may be many files, and large ones."""
    return sorted((checkpoint.known_title for checkpoint in files.checkpoints.all()), key=str.casefold)


def checkpoint_names_or_none(files: Files) -> list[str]:
    return ["None", *checkpoint_names(files)]


def vae_names(files: Files) -> list[str]:
    return ["None", *(vae.name for vae in files.vaes.all())]


def style_names(files: Files) -> list[str]:
    return [style.name for style in files.styles.all()]


def upscaler_names(files: Files) -> list[str]:
    return list(HiresUpscalers(files.upscalers))


# -- what needs reading ------------------------------------------------------------------------------------------------


def set_size(request: GenerationRequest, value: str, _values: Sequence[Any], _names: Names) -> GenerationRequest:
    """`512x768`."""
    try:
        width, height = (int(side) for side in value.lower().split("x"))
    except ValueError:
        raise BadRequest(f"{value[:50]!r} is no size such as 512x768", field=FIELD) from None
    fits = min(width, height) >= 8 and max(width, height) <= MAX_SIDE
    if not fits or width * height * request.batch_size > MAX_PIXELS_PER_BATCH:
        raise BadRequest(f"pictures of {width}x{height} are too small or too large", field=FIELD)
    return replace(request, width=width, height=height)


def set_face_restoration(
    request: GenerationRequest, value: str, _values: Sequence[Any], _names: Names
) -> GenerationRequest:
    """The name of a restorer, or whether to restore faces at all."""
    for name in ("CodeFormer", "GFPGAN"):
        if value.strip().lower() == name.lower():
            return replace(with_options(request, {"face_restoration_model": name}), restore_faces=True)
    return replace(request, restore_faces=value.strip().lower() in ("true", "yes", "y", "1"))
