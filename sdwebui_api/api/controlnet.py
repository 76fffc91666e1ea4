"""The routes of the ControlNet extension: what there is, and maps without a generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, Request
from pydantic import Field
from starlette.responses import Response

from sdwebui_api.api import response_schema as schema
from sdwebui_api.api.errors import to_json
from sdwebui_api.api.generation import result_unless_gone
from sdwebui_api.api.linked import Picture, Swap, linked
from sdwebui_api.api.services import Services, job_header, job_id_of, services_of, user_of
from sdwebui_api.api.wire import Float, Name, Text, WireModel
from sdwebui_api.errors import BadRequest
from sdwebui_api.jobs.job import Job

if TYPE_CHECKING:
    from PIL import Image

    from sdwebui_api.control.preprocessor import Preprocessor
    from sdwebui_api.control.service import Sources

router = APIRouter(prefix="/controlnet", tags=["controlnet"])

API_VERSION = 3
"""Units and routes as the extension 1.1.4 and later have them."""
MAX_PICTURES = 100

Pictures = Annotated[list[Text], Field(max_length=MAX_PICTURES)]


class DetectRequest(WireModel):
    """Thresholds and resolution: -1, or a number out of range, means the preprocessor's default."""

    controlnet_module: Name = "none"
    controlnet_input_images: Pictures = Field(default_factory=list)
    controlnet_images: Pictures = Field(default_factory=list, description="Another name of controlnet_input_images.")
    controlnet_processor_res: Float = -1
    controlnet_threshold_a: Float = -1
    controlnet_threshold_b: Float = -1
    controlnet_masks: Pictures = Field(default_factory=list)
    low_vram: bool = False


@router.get("/version", **schema.answers(schema.ControlNetVersion))
async def version() -> dict[str, int]:
    return {"version": API_VERSION}


@router.get("/model_list", **schema.answers(schema.ControlNetModelList))
async def model_list(request: Request, update: bool = True) -> dict[str, Any]:
    """The control models; `update` looks for new files first."""
    services = services_of(request)
    models = await services.off_loop(lambda: services.control.model_list(refresh=update))
    return {"model_list": models}


@router.get("/module_list", **schema.answers(schema.ControlNetModuleList))
async def module_list(request: Request, alias_names: bool = False) -> dict[str, Any]:
    """The preprocessors and their sliders; `alias_names` names them as pages do."""
    return services_of(request).control.module_list(labels=alias_names)


@router.get("/control_types", **schema.answers(schema.ControlNetTypes))
async def control_types(request: Request) -> dict[str, Any]:
    """Preprocessors and models sorted by what they are for."""
    return {"control_types": services_of(request).control.control_types()}


@router.get("/settings", **schema.answers(schema.ControlNetSettings))
async def settings(request: Request) -> dict[str, Any]:
    count = services_of(request).options.snapshot().get("control_net_unit_count", 3)
    # Older clients ask for the second name.
    return {"control_net_unit_count": count, "control_net_max_models_num": count}


@router.post("/detect", **schema.answers(schema.ControlNetDetection))
async def detect(request: Request, body: DetectRequest | None = None) -> Response:
    """The maps that a preprocessor makes of pictures."""
    services = services_of(request)
    body = body or DetectRequest()
    preprocessor = services.control.preprocessor(body.controlnet_module, "controlnet_module")
    async with linked(services, lambda swap: _Pictures.of(body, swap)) as pictures:
        job = services.runner.submit(
            lambda job: _detect(services, job, preprocessor, body, pictures),
            kind="detect",
            id=job_id_of(request),
            user=user_of(request),
            summary=preprocessor.name,
        )
        request.state.job_id = job.id
        answer = await result_unless_gone(services, job, request)
    content = await services.off_loop(to_json, answer)
    return Response(content, media_type="application/json", headers=job_header(job))


@dataclass(frozen=True)
class _Pictures:
    """Each with the field it came from."""

    images: list[tuple[Picture, str]]
    masks: list[tuple[Picture, str]]

    @staticmethod
    def of(body: DetectRequest, swap: Swap) -> _Pictures:
        def swapped(name: str) -> list[tuple[Picture, str]]:
            fields = ((text, f"{name}[{index}]") for index, text in enumerate(getattr(body, name)))
            return [(swap(text, field), field) for text, field in fields]

        images = "controlnet_input_images" if body.controlnet_input_images else "controlnet_images"
        return _Pictures(swapped(images), swapped("controlnet_masks"))


def _detect(
    services: Services, job: Job, preprocessor: Preprocessor, body: DetectRequest, pictures: _Pictures
) -> dict[str, Any]:
    """The answer, in a worker thread."""
    sources = _sources(preprocessor, pictures)
    job.set_total(1)
    found = services.control.detect(
        preprocessor,
        sources,
        resolution=body.controlnet_processor_res,
        thresholds=(body.controlnet_threshold_a, body.controlnet_threshold_b),
        field="controlnet_module",
        low_vram=body.low_vram,
        check=job.check,
    )
    answer: dict[str, Any] = {"info": "Success", "images": [_encoded(image) for image in found.images]}
    if found.poses is not None:
        answer["poses"] = found.poses
    return answer


def _sources(preprocessor: Preprocessor, pictures: _Pictures) -> Sources:
    from sdwebui_api.imaging.codec import decode_image

    if not pictures.images:
        raise BadRequest("No image selected", field="controlnet_input_images")
    if preprocessor.requires_mask and len(pictures.masks) < len(pictures.images):
        raise BadRequest(f"Preprocessor {preprocessor.name} requires a mask of each image", field="controlnet_masks")
    if len(pictures.masks) > len(pictures.images):
        raise BadRequest("There are more masks than images", field="controlnet_masks")
    images = [decode_image(picture, field) for picture, field in pictures.images]
    areas = [decode_image(picture, field) for picture, field in pictures.masks]
    return list(zip(images, [*areas, *[None] * (len(images) - len(areas))], strict=True))


@router.post("/render_openpose_json", **schema.answers(schema.ControlNetPictures))
async def render_openpose_json(request: Request, poses: Annotated[Any, Body()] = None) -> Response:
    """Skeletons drawn from OpenPose JSON: one object, or a list of them. Answers one picture each."""
    content = await services_of(request).off_loop(_rendered, poses)
    return Response(content, media_type="application/json")


def _rendered(given: Any) -> bytes:
    from PIL import Image

    from sdwebui_api.control.openpose import render_pose

    if isinstance(given, Mapping):
        given = given.get("pose_data", [given])
    if not isinstance(given, list) or not given or len(given) > MAX_PICTURES:
        raise BadRequest(f"Expected a list of one to {MAX_PICTURES} poses", field="pose_data")
    images = []
    for index, pose in enumerate(given):
        if not isinstance(pose, Mapping):
            raise BadRequest("Expected an object with people and a canvas size", field=f"pose_data[{index}]")
        images.append(_encoded(Image.fromarray(render_pose(pose, f"pose_data[{index}]"))))
    return to_json({"info": "Success", "images": images})


def _encoded(image: Image.Image) -> str:
    from sdwebui_api.imaging.codec import encode_image, to_base64

    return to_base64(encode_image(image))
