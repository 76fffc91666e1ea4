"""POST create/* and train/*: embeddings and hypernetworks of one's own. Each is a job.

A training whose client hangs up goes on, as in A1111, for its result is a file: `interrupt` ends it and keeps what
was learned, `DELETE /sdapi/v1/jobs/{id}` drops it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Body, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from sdwebui_api.api.generation_schema import Txt2ImgBody
from sdwebui_api.api.response_schema import CreateResponse, TrainResponse
from sdwebui_api.api.services import Services, Trains, job_header, job_id_of, services_of, user_of
from sdwebui_api.api.training_schema import (
    CreateEmbeddingBody,
    CreateHypernetworkBody,
    TrainBody,
    TrainEmbeddingBody,
    TrainHypernetworkBody,
)
from sdwebui_api.api.wire import WireModel
from sdwebui_api.catalog.checkpoints import CheckpointFile
from sdwebui_api.config.options import Options
from sdwebui_api.errors import BadRequest, Busy, Unavailable
from sdwebui_api.generation.request import GenerationRequest
from sdwebui_api.jobs.job import Job, PreviewSettings

router = APIRouter(prefix="/sdapi/v1", tags=["training"])

Kind = Literal["embedding", "hypernetwork"]
AnyBody = TypeVar("AnyBody", bound=WireModel)

TRAININGS = ("train-embedding", "train-hypernetwork")


def _args_of(schema: type[WireModel]) -> Any:
    """A1111 declares any object; the document tells at least which arguments are read."""
    fields = schema.model_fields.items()
    required = ", ".join(f"`{name}`" for name, field in fields if field.is_required())
    others = ", ".join(f"`{name}` ({field.default!r})" for name, field in fields if not field.is_required())
    return Body(title="Args", description=f"Required: {required}. With defaults: {others}.")


@router.post("/create/embedding")
async def create_embedding(
    args: Annotated[dict[str, Any], _args_of(CreateEmbeddingBody)], request: Request, response: Response
) -> CreateResponse:
    """An untrained embedding: `name`, `num_vectors_per_token`, `overwrite_old`, `init_text`."""
    job = await begin_embedding(
        services_of(request), _read(CreateEmbeddingBody, args), job_id_of(request), user_of(request)
    )
    _name_job(request, response, job)
    return CreateResponse(info=f"create embedding filename: {await job.result()}")


@router.post("/create/hypernetwork")
async def create_hypernetwork(
    args: Annotated[dict[str, Any], _args_of(CreateHypernetworkBody)], request: Request, response: Response
) -> CreateResponse:
    """An untrained hypernetwork: `name`, `enable_sizes`, `overwrite_old`, and how its layers are built."""
    services = services_of(request)
    body = _read(CreateHypernetworkBody, args)
    job = await begin_hypernetwork(services, body, job_id_of(request), user_of(request))
    _name_job(request, response, job)
    path = await job.result()
    await services.off_loop(services.catalog.hypernetworks.refresh)
    return CreateResponse(info=f"create hypernetwork filename: {path}")


@router.post("/train/embedding")
async def train_embedding(
    args: Annotated[dict[str, Any], _args_of(TrainEmbeddingBody)], request: Request, response: Response
) -> TrainResponse:
    """Teaches an embedding what the images in `data_root` show. Answers when it is done."""
    return await _train("embedding", _read(TrainEmbeddingBody, args), request, response)


@router.post("/train/hypernetwork")
async def train_hypernetwork(
    args: Annotated[dict[str, Any], _args_of(TrainHypernetworkBody)], request: Request, response: Response
) -> TrainResponse:
    """Teaches a hypernetwork the style of the images in `data_root`. Answers when it is done."""
    return await _train("hypernetwork", _read(TrainHypernetworkBody, args), request, response)


async def _train(kind: Kind, body: TrainBody, request: Request, response: Response) -> TrainResponse:
    services = services_of(request)
    job = await begin_training(services, kind, body, job_id_of(request, body.id_task), user_of(request))
    _name_job(request, response, job)
    outcome = await job.result()
    await services.off_loop(services.catalog.hypernetworks.refresh)
    # A1111 says "embedding" in both cases.
    return TrainResponse(info=f"train embedding complete: filename: {outcome.path} error: None")


async def begin_embedding(services: Services, body: CreateEmbeddingBody, id: str | None, user: str | None) -> Job:
    """Its result is the file's path. Raises BadRequest naming the field."""
    trainer = _trainer(services)
    new = await services.off_loop(trainer.files.new_embedding, body.model_dump())
    checkpoint = _checkpoint(services)
    vae = await services.off_loop(_vae, services, services.options.snapshot(), checkpoint)
    return services.runner.submit(
        lambda job: trainer.create_embedding(new, checkpoint, vae, job),
        kind="create-embedding",
        id=id,
        user=user,
        summary=new.name,
    )


async def begin_hypernetwork(services: Services, body: CreateHypernetworkBody, id: str | None, user: str | None) -> Job:
    """Its result is the file's path. Raises BadRequest naming the field."""
    trainer = _trainer(services)
    new = await services.off_loop(trainer.files.new_hypernetwork, body.model_dump())
    return services.runner.submit(
        lambda job: trainer.create_hypernetwork(new, job),
        kind="create-hypernetwork",
        id=id,
        user=user,
        summary=new.name,
    )


async def begin_training(services: Services, kind: Kind, body: TrainBody, id: str | None, user: str | None) -> Job:
    """Its result has the `path` of what was taught. Raises Busy while another training is under way."""
    trainer = _trainer(services)
    _refuse_a_second(services)
    task = await services.off_loop(_plan, services, trainer, kind, body)
    _refuse_a_second(services)  # another may have begun meanwhile
    _refuse_taken_id(services, body.id_task)
    return services.runner.submit(
        lambda job: trainer.train(task, job),
        kind=f"train-{kind}",
        id=id,
        user=user,
        summary=task.name[:200],
        preview=PreviewSettings(
            enabled=task.options.live_previews_enable,
            every_n_steps=task.options.show_progress_every_n_steps,
            image_format=task.options.live_previews_image_format,
        ),
    )


def _name_job(request: Request, response: Response, job: Job) -> None:
    request.state.job_id = job.id
    response.headers.update(job_header(job))


def _plan(services: Services, trainer: Trains, kind: Kind, body: TrainBody) -> Any:
    options, checkpoint = services.options.snapshot(), _checkpoint(services)
    preview = _preview(services, body, options) if body.create_image_every else None
    vae = _vae(services, options, checkpoint)
    return trainer.files.training(kind, body.model_dump(), options, checkpoint, vae, preview)


def _preview(services: Services, body: TrainBody, options: Options) -> GenerationRequest:
    """The pictures that show how far the training is."""
    given: dict[str, Any] = {
        "prompt": body.preview_prompt,
        "negative_prompt": body.preview_negative_prompt,
        "steps": body.preview_steps,
        "sampler_name": body.preview_sampler_name,
        "cfg_scale": body.preview_cfg_scale,
        "seed": body.preview_seed,
    }
    sides = {"width": body.preview_width or body.training_width, "height": body.preview_height or body.training_height}
    given |= {side: value for side, value in sides.items() if value}
    try:
        return services.resolver("txt2img", Txt2ImgBody(**given).model_dump(), set(given), options)
    except BadRequest as error:
        raise BadRequest(error.message, field=f"preview_{error.field}", choices=error.choices) from None


def _read(schema: type[AnyBody], args: Mapping[str, Any]) -> AnyBody:
    """The arguments, checked. What is missing or wrong is refused as if the schema were the route's own."""
    try:
        return schema.model_validate(args)
    except ValidationError as error:
        raise RequestValidationError([{**row, "loc": ("body", *row["loc"])} for row in error.errors()]) from None


def _trainer(services: Services) -> Trains:
    if services.trainer is None:
        raise Unavailable("This server cannot train")
    return services.trainer


def _checkpoint(services: Services) -> CheckpointFile:
    checkpoint = services.current_checkpoint()
    if checkpoint is None:
        raise Unavailable("There is no checkpoint yet: put one into the folder Stable-diffusion and refresh")
    return checkpoint


def _vae(services: Services, options: Options, checkpoint: CheckpointFile) -> Any:
    return services.catalog.vaes.resolve(options.sd_vae, checkpoint)


def _refuse_a_second(services: Services) -> None:
    services.runner.check_admission()
    running = next((job for job in services.runner.live_jobs() if job.kind in TRAININGS), None)
    if running is not None:
        raise Busy(f"A training is under way already (job {running.id})", retry_after=60)


def _refuse_taken_id(services: Services, id: str) -> None:
    if id and any(job.id == id and not job.winding_down for job in services.runner.live_jobs()):
        raise BadRequest(f"A job with the id {id[:100]!r} is waiting or running already", field="id_task")
