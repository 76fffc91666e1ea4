"""POST txt2img and img2img: the body becomes a job, the job's pictures become the answer."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from sdwebui_api.api.call_log import note_facts
from sdwebui_api.api.eas_answer import begin
from sdwebui_api.api.eas_results import owing
from sdwebui_api.api.errors import to_json
from sdwebui_api.api.generation_call import Kind, Prepared, persist, prepare, submit
from sdwebui_api.api.generation_schema import GenerationBody, Img2ImgBody, Txt2ImgBody
from sdwebui_api.api.linked import generation_pictures, linked
from sdwebui_api.api.response_schema import ImageToImageResponse, TextToImageResponse, answers
from sdwebui_api.api.services import Services, job_header, job_id_of, services_of, user_of
from sdwebui_api.generation.request import GeneratedImage, GenerationResult
from sdwebui_api.jobs.job import Job

log = logging.getLogger(__name__)

router = APIRouter(prefix="/sdapi/v1", tags=["generation"])


@router.post("/txt2img", **answers(TextToImageResponse))
async def txt2img(body: Txt2ImgBody, request: Request) -> Response:
    """Pictures from a prompt. Answers `{"images", "parameters", "info"}`; `info` is a string that holds JSON."""
    return await _generate("txt2img", body, request)


@router.post("/img2img", **answers(ImageToImageResponse))
async def img2img(body: Img2ImgBody, request: Request) -> Response:
    """Pictures from a picture and a prompt; with `mask`, only the white part is repainted."""
    return await _generate("img2img", body, request)


async def _generate(kind: Kind, body: GenerationBody, request: Request) -> Response:
    services = services_of(request)
    note_facts(request, prompt=body.prompt, negative_prompt=body.negative_prompt)
    call = begin(request, dict(body), nowebui=services.flags.nowebui)
    services.runner.check_admission(user_of(request))
    async with linked(services, lambda swap: generation_pictures(kind, dict(body), swap)) as pictures:
        prepared = await services.off_loop(prepare, services, kind, body, pictures, call)
    note_facts(request, **prepared.facts)
    with owing(services, prepared.delivery):
        job = submit(services, kind, prepared, user_of(request), job_id_of(request, body.force_task_id))
        request.state.job_id = job.id
        result: GenerationResult = await result_unless_gone(services, job, request)
        warnings = [] if body.override_settings_restore_afterwards else await services.off_loop(persist, services, body)
        info = prepared.info(result, job.id, warnings)
        begun = time.perf_counter()
        content = await _content(services, prepared, result, info, send_images=body.send_images)
        services.metrics.stage_ended("answer", time.perf_counter() - begun)
    return Response(content, media_type="application/json", headers=job_header(job))


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
    services: Services, prepared: Prepared, result: GenerationResult, info: dict[str, Any], *, send_images: bool
) -> bytes:
    """The answer's body. Raises NotStored where pictures could not be written."""
    if prepared.delivery is not None:
        answer = await prepared.delivery.answer(services, prepared.request, result, info)
        if answer is not None:
            return to_json(answer)
    return await services.off_loop(_render, prepared, result, info, send_images)


def _render(prepared: Prepared, result: GenerationResult, info: dict[str, Any], send_images: bool) -> bytes:
    from sdwebui_api.imaging.codec import encode_image, to_base64

    stored, with_text = prepared.stored, prepared.request.options.enable_pnginfo

    def encode(image: GeneratedImage) -> str:
        data = encode_image(
            image.image,
            stored.samples_format,
            quality=stored.jpeg_quality,
            webp_lossless=stored.webp_lossless,
            infotext=(image.infotext or None) if with_text and image.described else None,
        )
        return to_base64(data)

    images = [encode(image) for image in result.images] if send_images else []
    whole_info = to_json({**result.info, **info}).decode()
    return to_json({"images": images, "parameters": prepared.echo, "info": whole_info})
