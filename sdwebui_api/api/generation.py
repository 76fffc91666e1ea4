"""POST txt2img and img2img: the body becomes a job, the job's pictures become the answer."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from sdwebui_api.api.call_log import note_facts
from sdwebui_api.api.eas_answer import EasCall, begin
from sdwebui_api.api.eas_extras import read_extras, without_extras
from sdwebui_api.api.eas_results import Delivery, delivery, owing
from sdwebui_api.api.errors import to_json
from sdwebui_api.api.generation_schema import GenerationBody, Img2ImgBody, Txt2ImgBody
from sdwebui_api.api.infotext import read_infotext
from sdwebui_api.api.linked import generation_pictures, linked
from sdwebui_api.api.options import store_options
from sdwebui_api.api.response_schema import ImageToImageResponse, TextToImageResponse, answers
from sdwebui_api.api.script_args import read_sections, without_sections
from sdwebui_api.api.services import Services, job_header, job_id_of, services_of, user_of
from sdwebui_api.config.options import Options
from sdwebui_api.errors import BadRequest, SdWebUIError
from sdwebui_api.generation.infotext_request import fields_of_infotext
from sdwebui_api.generation.request import GeneratedImage, GenerationRequest, GenerationResult
from sdwebui_api.jobs.job import Job, PreviewSettings

log = logging.getLogger(__name__)

router = APIRouter(prefix="/sdapi/v1", tags=["generation"])

Kind = Literal["txt2img", "img2img"]


@router.post("/txt2img", **answers(TextToImageResponse))
async def txt2img(body: Txt2ImgBody, request: Request) -> Response:
    """Pictures from a prompt. Answers `{"images", "parameters", "info"}`; `info` is a string that holds JSON."""
    return await _generate("txt2img", body, request)


@router.post("/img2img", **answers(ImageToImageResponse))
async def img2img(body: Img2ImgBody, request: Request) -> Response:
    """Pictures from a picture and a prompt; with `mask`, only the white part is repainted."""
    return await _generate("img2img", body, request)


@dataclass(frozen=True)
class _Prepared:
    request: GenerationRequest
    echo: dict[str, Any]
    """The answer's `parameters`."""
    stored: Options
    """The server's options at admission: the answer's file format follows them, not the overrides (A1111)."""
    delivery: Delivery | None
    """None: the pictures are in the answer."""

    @property
    def facts(self) -> dict[str, Any]:
        """For `--api-log`."""
        request = self.request
        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "checkpoint": request.checkpoint.name,
            "sampler": request.sampler,
            "schedule": request.schedule,
            "steps": request.steps,
            "width": request.width,
            "height": request.height,
            "pictures": request.batch_size * request.n_iter,
            "seed": request.seed,
        }

    def info(self, result: GenerationResult, job_id: str, more_warnings: list[str]) -> dict[str, Any]:
        """What of `info` is ours."""
        warnings = [*self.request.warnings, *result.info.get("warnings", ()), *more_warnings]
        return {"job_id": job_id, "warnings": list(dict.fromkeys(warnings))}


async def _generate(kind: Kind, body: GenerationBody, request: Request) -> Response:
    services = services_of(request)
    note_facts(request, prompt=body.prompt, negative_prompt=body.negative_prompt)
    call = begin(request, dict(body), nowebui=services.flags.nowebui)
    services.runner.check_admission()
    async with linked(services, lambda swap: generation_pictures(kind, dict(body), swap)) as pictures:
        prepared = await services.off_loop(_prepare, services, kind, body, pictures, call)
    note_facts(request, **prepared.facts)
    with owing(services, prepared.delivery):
        job = _submit(services, kind, prepared, user_of(request), job_id_of(request, body.force_task_id))
        request.state.job_id = job.id
        result: GenerationResult = await result_unless_gone(services, job, request)
        warnings = (
            [] if body.override_settings_restore_afterwards else await services.off_loop(_persist, services, body)
        )
        info = prepared.info(result, job.id, warnings)
        begun = time.perf_counter()
        content = await _content(services, prepared, result, info, send_images=body.send_images)
        services.metrics.stage_ended("answer", time.perf_counter() - begun)
    return Response(content, media_type="application/json", headers=job_header(job))


def _prepare(
    services: Services, kind: Kind, body: GenerationBody, pictures: dict[str, Any], call: EasCall | None
) -> _Prepared:
    """`pictures`: the fields that hold pictures, fetched; the echo keeps their URLs."""
    stored = services.options.snapshot()
    extras = read_extras(body.alwayson_scripts)
    goes = delivery(services, call, extras, save_images=body.save_images)
    if body.infotext:
        body = _with_infotext(services, kind, body, stored)
    values = body.model_dump()
    scripts, alwayson = services.scripts, without_extras(pictures["alwayson_scripts"])
    replaced = read_sections(scripts, kind, alwayson)
    replaced["override_settings"] = {**(values["override_settings"] or {}), **extras.overrides(services.catalog)}
    named = scripts.read(kind, services.catalog, body.script_name, body.script_args, without_sections(alwayson))
    resolved = services.resolver(kind, {**values, **pictures, **replaced}, body.model_fields_set, stored)
    resolved = replace(resolved, script=named.script, always_on=named.always_on)
    if goes is not None:
        resolved = goes.wanted(resolved, grid=not body.do_not_save_grid)
    if extras.image_link and kind == "txt2img":
        warning = "alwayson_scripts.image_link: txt2img starts from no picture, it had no effect"
        resolved = replace(resolved, warnings=(*resolved.warnings, warning))
    for side in ("width", "height"):
        if side not in body.model_fields_set:
            values[side] = getattr(resolved, side)
    if kind == "img2img" and not values["include_init_images"]:
        values["init_images"] = values["mask"] = None
    return _Prepared(resolved, values, stored, goes)


def _with_infotext(services: Services, kind: Kind, body: GenerationBody, stored: Options) -> GenerationBody:
    """The body with what its `infotext` says where the client says nothing; the echo shows it."""
    params = read_infotext(services, body.infotext or "", stored)
    given = body.model_dump(include=body.model_fields_set)
    overrides = body.override_settings or {}
    names = services.resolver.sampler_names
    found = fields_of_infotext(params, kind, body.model_fields_set, overrides, stored, names)
    merged = {**found.fields, **given, "override_settings": {**found.override_settings, **overrides}}
    try:
        return type(body).model_validate(merged)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        raise BadRequest(f"infotext: {name}: {problem['msg']}", field="infotext") from None


def _persist(services: Services, body: GenerationBody) -> list[str]:
    """The overrides become settings. The pictures exist already, so a failure is only a warning."""
    try:
        store_options(services, body.override_settings or {})
    except SdWebUIError as error:
        return [f"override_settings were not stored: {error.message}"]
    return []


def _submit(services: Services, kind: Kind, prepared: _Prepared, user: str | None, id: str | None) -> Job:
    options, resolved, generator = prepared.request.options, prepared.request, services.generator
    return services.runner.submit(
        lambda job: generator.run(resolved, job),
        kind=kind,
        id=id,
        user=user,
        summary=resolved.prompt[:200],
        preview=PreviewSettings(
            # Unfinished pictures cannot be judged.
            enabled=options.live_previews_enable and not services.flags.enable_nsfw_censor,
            every_n_steps=options.show_progress_every_n_steps,
            image_format=options.live_previews_image_format,
        ),
    )


async def result_unless_gone(services: Services, job: Job, request: Request) -> Any:
    """The job's result; when the client hangs up first, the job is cancelled."""
    result = asyncio.ensure_future(job.result())
    gone = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            log.info("job %s is cancelled: its client hung up", job.id)
            services.runner.cancel(job)
        return await result
    except asyncio.CancelledError:
        services.runner.cancel(job)
        raise
    finally:
        gone.cancel()
        result.cancel()


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _content(
    services: Services, prepared: _Prepared, result: GenerationResult, info: dict[str, Any], *, send_images: bool
) -> bytes:
    """The answer's body. Raises NotStored where pictures could not be written."""
    if prepared.delivery is not None:
        answer = await prepared.delivery.answer(services, prepared.request, result, info)
        if answer is not None:
            return to_json(answer)
    return await services.off_loop(_render, prepared, result, info, send_images)


def _render(prepared: _Prepared, result: GenerationResult, info: dict[str, Any], send_images: bool) -> bytes:
    from sdwebui_api.imaging.codec import encode_image, to_base64

    stored, with_text = prepared.stored, prepared.request.options.enable_pnginfo

    def encode(image: GeneratedImage) -> str:
        data = encode_image(
            image.image,
            stored.samples_format,
            quality=stored.jpeg_quality,
            webp_lossless=stored.webp_lossless,
            infotext=(image.infotext or None) if with_text else None,
        )
        return to_base64(data)

    images = [encode(image) for image in result.images] if send_images else []
    whole_info = to_json({**result.info, **info}).decode()
    return to_json({"images": images, "parameters": prepared.echo, "info": whole_info})
