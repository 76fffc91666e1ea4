"""Work on finished pictures: extras (upscaling, face restoration), interrogate and png-info."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from sdwebui_api.api.errors import to_json
from sdwebui_api.api.generation import result_unless_gone
from sdwebui_api.api.infotext import read_infotext
from sdwebui_api.api.linked import Picture, linked
from sdwebui_api.api.response_schema import (
    ExtrasBatchImagesResponse,
    ExtrasSingleImageResponse,
    InterrogateResponse,
    PNGInfoResponse,
    answers,
)
from sdwebui_api.api.services import Services, job_header, job_id_of, services_of, user_of
from sdwebui_api.api.wire import Float, Fraction, Int, Name, Text, WireModel
from sdwebui_api.jobs.job import Job

router = APIRouter(prefix="/sdapi/v1", tags=["images"])

Target = Annotated[Int, Field(ge=1, le=8192)]


_NEVER_NULL = frozenset(
    {
        "resize_mode", "show_extras_results", "gfpgan_visibility", "codeformer_visibility", "codeformer_weight",
        "upscaling_resize", "upscaling_resize_w", "upscaling_resize_h", "upscaling_crop", "upscaler_1", "upscaler_2",
        "extras_upscaler_2_visibility", "upscale_first", "image", "imageList",
    }
)  # fmt: skip


class ExtrasFields(WireModel):
    """How pictures are enlarged. Null is refused, as A1111's schema refuses it."""

    never_null: ClassVar[frozenset[str]] = _NEVER_NULL

    resize_mode: Annotated[Int, Field(ge=0, le=1)] = 0
    show_extras_results: bool = True
    gfpgan_visibility: Fraction = 0
    codeformer_visibility: Fraction = 0
    codeformer_weight: Fraction = 0
    upscaling_resize: Annotated[Float, Field(gt=0, le=32)] = 2
    upscaling_resize_w: Target = 512
    upscaling_resize_h: Target = 512
    upscaling_crop: bool = True
    upscaler_1: Name = "None"
    upscaler_2: Name = "None"
    extras_upscaler_2_visibility: Fraction = 0
    upscale_first: bool = False


class ExtrasSingleImageRequest(ExtrasFields):
    image: Text = ""


class FileData(BaseModel):
    data: Text
    name: Name


class ExtrasBatchImagesRequest(ExtrasFields):
    imageList: Annotated[list[FileData], Field(max_length=1000)]


class PNGInfoRequest(WireModel):
    never_null: ClassVar[frozenset[str]] = frozenset({"image"})

    image: Text


@router.post("/extra-single-image", **answers(ExtrasSingleImageResponse))
async def extra_single_image(body: ExtrasSingleImageRequest, request: Request) -> Response:
    """One picture, enlarged. Answers `{"html_info", "image"}`."""
    return await _extras([(body.image, "image")], body, request, single=True)


@router.post("/extra-batch-images", **answers(ExtrasBatchImagesResponse))
async def extra_batch_images(body: ExtrasBatchImagesRequest, request: Request) -> Response:
    """Several pictures, enlarged alike. Answers `{"html_info", "images"}`."""
    images = [(file.data, f"imageList[{index}].data") for index, file in enumerate(body.imageList)]
    return await _extras(images, body, request, single=False)


class InterrogateRequest(WireModel):
    never_null: ClassVar[frozenset[str]] = frozenset({"model"})

    image: Text = ""
    model: Name = "clip"


@router.post("/interrogate", **answers(InterrogateResponse))
async def interrogate(body: InterrogateRequest, request: Request) -> Response:
    """What a picture shows: a caption (`clip`) or booru tags (`deepdanbooru`). Answers `{"caption"}`."""
    services = services_of(request)
    async with linked(services, lambda swap: swap(body.image, "image")) as picture:
        job = services.runner.submit(
            lambda job: _describe(services, job, picture, body.model),
            kind="interrogate",
            id=job_id_of(request),
            user=user_of(request),
            summary=body.model[:200],
        )
        request.state.job_id = job.id
        caption = await result_unless_gone(services, job, request)
    return Response(to_json({"caption": caption}), media_type="application/json", headers=job_header(job))


@router.post("/png-info", **answers(PNGInfoResponse))
async def png_info(body: PNGInfoRequest, request: Request) -> dict[str, Any]:
    """The infotext in a picture, the file's other texts, and the infotext read."""
    services = services_of(request)
    async with linked(services, lambda swap: swap(body.image, "image")) as picture:
        return await services.off_loop(read_png_info, services, picture)


async def _extras(images: list[tuple[str, str]], body: ExtrasFields, request: Request, *, single: bool) -> Response:
    """A job of its own kind: upscaling waits in the line and can be cancelled like generation."""
    services = services_of(request)
    async with linked(services, lambda swap: [(swap(text, field), field) for text, field in images]) as pictures:
        job = services.runner.submit(
            lambda job: _encoded(enlarge_all(services, job, pictures, body)),
            kind="extras",
            id=job_id_of(request),
            user=user_of(request),
            summary="extras",
        )
        request.state.job_id = job.id
        encoded, html_info = await result_unless_gone(services, job, request)
    answer = {"html_info": html_info, "image": encoded[0]} if single else {"html_info": html_info, "images": encoded}
    content = await services.off_loop(to_json, answer)
    return Response(content, media_type="application/json", headers=job_header(job))


def _encoded(results: Sequence[tuple[bytes, str]]) -> tuple[list[str], str]:
    """(base64 pictures, html_info of the last one)."""
    from sdwebui_api.imaging.codec import to_base64
    from sdwebui_api.postprocess.extras import html_info

    return [to_base64(data) for data, _ in results], html_info(results[-1][1] if results else "")


def enlarge_all(
    services: Services, job: Job, images: Sequence[tuple[Picture, str]], body: ExtrasFields
) -> list[tuple[bytes, str]]:
    """(file, what was done) of every picture, in a worker thread. images: each with the field that errors name."""
    from sdwebui_api.imaging.codec import decode_image, encode_image
    from sdwebui_api.postprocess.extras import ExtrasSettings, run_extras

    options = services.options.snapshot()
    settings = ExtrasSettings(**body.model_dump(exclude={"image", "imageList", "show_extras_results"}))
    upscalers = services.upscalers.for_job(job, options, as_steps=True)
    faces = services.faces.for_job(job)
    job.set_total(len(images))
    results = []
    for picture, field in images:
        job.start_batch(None, 1)
        result = run_extras(decode_image(picture, field), settings, upscalers, faces)
        data = encode_image(
            result.image,
            options.samples_format,
            quality=options.jpeg_quality,
            webp_lossless=options.webp_lossless,
            items=result.items,
        )
        results.append((data, result.infotext))
        job.pictures += 1
        job.next_part()
        if job.interrupted:
            break
    return results


def _describe(services: Services, job: Job, picture: Picture, model: str) -> str:
    from sdwebui_api.imaging.codec import decode_image

    image = decode_image(picture, "image")
    return services.interrogator.describe(image, model, services.options.snapshot(), job)


def read_png_info(services: Services, picture: Picture) -> dict[str, Any]:
    from sdwebui_api.generation.networks import with_names_of_this_server
    from sdwebui_api.imaging.codec import decode_image
    from sdwebui_api.imaging.metadata import read_info_from_image

    infotext, items = read_info_from_image(decode_image(picture, "image"))
    options = services.options.snapshot()
    parameters = read_infotext(services, infotext or "", options)
    parameters = with_names_of_this_server(parameters, options, services.catalog)
    parameters = services.scripts.infotext_pasted(infotext or "", parameters)
    told = {key: plain for key, value in items.items() if (plain := _plain(value)) is not None}
    return {"info": infotext or "", "items": told, "parameters": parameters}


def _plain(value: Any) -> Any:
    """What Pillow notes about a file, as JSON can say it; None for what it cannot (a palette's transparency, say)."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(value, list | tuple | set):
        return [_plain(part) for part in value]
    if isinstance(value, str | int):
        return value
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None
