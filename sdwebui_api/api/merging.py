"""POST merge-checkpoints: a new checkpoint from others. Ours; A1111 merges on its page only (`run_modelmerger`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from sdwebui_api.api.generation import result_unless_gone
from sdwebui_api.api.services import Services, job_header, job_id_of, services_of, user_of
from sdwebui_api.api.wire import Float, Name, WireModel
from sdwebui_api.catalog.merging import InterpMethod, MergeRecipe
from sdwebui_api.errors import NotFound
from sdwebui_api.jobs.job import Job

router = APIRouter(prefix="/sdapi/v1", tags=["merging"])


class MergeBody(WireModel):
    """The inputs of A1111's tab "Checkpoint Merger", by the names of `run_modelmerger`."""

    primary_model_name: Name
    secondary_model_name: Name | None = None
    tertiary_model_name: Name | None = None
    interp_method: InterpMethod = "Weighted sum"
    multiplier: Annotated[Float, Field(ge=-10, le=10)] = 0.3
    save_as_half: bool = False
    custom_name: Name = ""
    checkpoint_format: Literal["safetensors"] = "safetensors"
    config_source: Annotated[int, Field(ge=0, le=3)] = Field(
        0, description="Whose .yaml is copied: 0 the first of A, B, C that has one; 1 B's; 2 C's; 3 none."
    )
    bake_in_vae: Name = "None"
    discard_weights: Name = Field(
        "", description="A regular expression; tensors in whose names it is found are left out"
    )
    save_metadata: bool = True
    add_merge_recipe: bool = True
    copy_metadata_fields: bool = True
    metadata: dict[str, str] = Field(default_factory=dict)
    force_task_id: Name | None = None


class MergeResponse(BaseModel):
    """The new checkpoint, as GET /sd-models lists it from now on."""

    model_config = ConfigDict(protected_namespaces=())

    info: str
    title: str
    model_name: str
    filename: str


@router.post("/merge-checkpoints", response_model=MergeResponse)
async def merge_checkpoints(body: MergeBody, request: Request) -> JSONResponse:
    """Writes a new safetensors file into the checkpoint folder, never over an existing one.

    A job like others: it waits in the line, has progress (one step per tensor) and can be cancelled.
    """
    services = services_of(request)
    recipe = await services.off_loop(recipe_of, services, body)
    job = services.runner.submit(
        lambda job: merge_as_job(services, job, recipe),
        kind="merge",
        id=job_id_of(request, body.force_task_id),
        user=user_of(request),
        summary=", ".join(source.name for source in recipe.sources)[:200],
    )
    request.state.job_id = job.id
    answer = await result_unless_gone(services, job, request)
    return JSONResponse(answer, headers=job_header(job))


def recipe_of(services: Services, body: MergeBody) -> MergeRecipe:
    """Looks the names up. Raises NotFound naming the field."""
    find = services.catalog.checkpoints.find
    wanted = {"Weighted sum": 2, "Add difference": 3}.get(body.interp_method, 1)
    names = (body.primary_model_name, body.secondary_model_name, body.tertiary_model_name)
    fields = ("primary_model_name", "secondary_model_name", "tertiary_model_name")
    found = [
        find(name, field) if name and index < wanted else None
        for index, (name, field) in enumerate(zip(names, fields, strict=True))
    ]
    if found[0] is None:
        raise NotFound("a checkpoint is needed", field=fields[0])
    vae = None if body.bake_in_vae in ("", "None") else services.catalog.vaes.find(body.bake_in_vae, "bake_in_vae")
    copied = body.model_dump(
        include={"multiplier", "save_as_half", "custom_name", "config_source", "discard_weights", "save_metadata",
                 "add_merge_recipe", "copy_metadata_fields", "metadata"}
    )  # fmt: skip
    return MergeRecipe(found[0], found[1], found[2], method=body.interp_method, vae=vae, **copied)


def merge_as_job(services: Services, job: Job, recipe: MergeRecipe) -> dict[str, Any]:
    """In a worker thread. Answers the fields of `MergeResponse`."""
    from sdwebui_api.engine.merging import merge_checkpoints as merge

    def report(done: int, total: int) -> None:
        if done == 1:
            job.start_batch("Merging", total)
        job.step(done)

    job.set_total(1)
    path = merge(recipe, services.merge_folder, report)
    checkpoints = services.catalog.checkpoints
    checkpoints.refresh()
    file = checkpoints.find(str(path))
    return {
        "info": f"Checkpoint saved to {path}",
        "title": file.title,
        "model_name": file.model_name,
        "filename": str(path),
    }
