"""Embeddings and hypernetworks of one's own: made, then taught from a folder of pictures."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from sdwebui_api.api import training
from sdwebui_api.api.services import Services
from sdwebui_api.api.training_schema import (
    CreateEmbeddingBody,
    CreateHypernetworkBody,
    TrainEmbeddingBody,
    TrainHypernetworkBody,
)
from sdwebui_api.errors import BadRequest
from sdwebui_api.jobs.job import Job
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.page_jobs import PageJob
from sdwebui_api.webui.tabs import train_fields
from sdwebui_api.webui.tabs.train_fields import Fields
from sdwebui_api.webui.tool_run import ToolRun, Updates, checked

Begin = Callable[[Services, dict[str, Any], str | None], Awaitable[Job]]


def build(page: PageBuilder) -> None:
    with gr.Tabs(elem_id="train_tabs"):
        with gr.Tab(t("Create embedding"), id="create_embedding", elem_id="train_create_embedding_tab"):
            _creating(page, "embedding", t("Create embedding"), train_fields.embedding, _begin_embedding)
        with gr.Tab(t("Create hypernetwork"), id="create_hypernetwork", elem_id="train_create_hypernetwork_tab"):
            _creating(page, "hypernetwork", t("Create hypernetwork"), train_fields.hypernetwork, _begin_hypernetwork)
        with gr.Tab(t("Train"), id="train", elem_id="train_train_tab"):
            _teaching(page)


def _creating(
    page: PageBuilder, what: str, label: str, fields_of: Callable[[PageBuilder], Fields], begin: Begin
) -> None:
    run = ToolRun(page, f"train_create_{what}", label, cancels=True, makes_models=True)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320, elem_classes=["settings"]):
            fields = fields_of(page)
        with gr.Column(scale=1, min_width=320, elem_classes=["results"]):
            run.buttons()
            run.bar()
            info = gr.HTML("", elem_id=f"{run.id}_result", padding=False)
    _wire(page, run, fields, info, begin)


def _teaching(page: PageBuilder) -> None:
    """One set of fields, and a button for each of the two things that can be taught."""
    runs = {
        "embedding": ToolRun(page, "train_train_embedding", t("Train embedding"), makes_models=True),
        "hypernetwork": ToolRun(page, "train_train_hypernetwork", t("Train hypernetwork"), makes_models=True),
    }
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320, elem_classes=["settings"]):
            fields = train_fields.training(page)
        with gr.Column(scale=1, min_width=320, elem_classes=["results"]):
            with gr.Row(elem_classes=["compact"]):
                for run in runs.values():
                    with gr.Column(min_width=140):
                        run.buttons()
            for run in runs.values():
                run.bar()
            info = gr.HTML("", elem_id="train_result", padding=False)
    _wire(page, runs["embedding"], fields, info, _begin_teaching_embedding)
    _wire(page, runs["hypernetwork"], fields, info, _begin_teaching_hypernetwork)


def _wire(page: PageBuilder, run: ToolRun, fields: Fields, info: gr.HTML, begin: Begin) -> None:
    names = list(fields)

    async def start(services: Services, user: str | None, *values: Any) -> PageJob:
        job = await begin(services, dict(zip(names, values, strict=True)), user)
        return page.jobs.follow(services, job, user, lambda page_job, result: _keep(services, page_job, result))

    def show(job: PageJob) -> Updates:
        saved = t("Saved as {path}", path=html.escape(job.info["path"]))
        steps = t("Trained for {steps} steps", steps=job.info["steps"]) if "steps" in job.info else ""
        time = t("Time taken: {seconds} s", seconds=f"{job.seconds:.1f}")
        notes = "".join(f'<div class="note">{line}</div>' for line in (steps, time) if line)
        return {info: f'<div class="infotext-text">{saved}</div>{notes}'}

    run.wire(list(fields.values()), start, [info], show)


def _keep(services: Services, page_job: PageJob, result: Any) -> None:
    """result: the path of what was made, or the trainer's outcome."""
    if isinstance(result, Path):
        page_job.info["path"] = str(result)
    else:
        page_job.info |= {"path": str(result.path), "steps": result.step}
    services.catalog.hypernetworks.refresh()
    services.engine.refresh_embeddings()


async def _begin_embedding(services: Services, given: dict[str, Any], user: str | None) -> Job:
    return await training.begin_embedding(services, checked(CreateEmbeddingBody, given), None, user)


async def _begin_hypernetwork(services: Services, given: dict[str, Any], user: str | None) -> Job:
    given["enable_sizes"] = [int(width) for width in given["enable_sizes"] or ()]
    given["dropout_structure"] = given["dropout_structure"] or None
    if given["use_dropout"] and given["dropout_structure"] is None:
        raise BadRequest(t("Dropout needs its structure, such as 0, 0.3, 0"))
    return await training.begin_hypernetwork(services, checked(CreateHypernetworkBody, given), None, user)


async def _begin_teaching_embedding(services: Services, given: dict[str, Any], user: str | None) -> Job:
    if not given["embedding_name"]:
        raise BadRequest(t("Choose an embedding first"))
    body = checked(TrainEmbeddingBody, _of_both(given, "embedding"))
    return await training.begin_training(services, "embedding", body, None, user)


async def _begin_teaching_hypernetwork(services: Services, given: dict[str, Any], user: str | None) -> Job:
    if not given["hypernetwork_name"]:
        raise BadRequest(t("Choose a hypernetwork first"))
    body = checked(TrainHypernetworkBody, _of_both(given, "hypernetwork"))
    return await training.begin_training(services, "hypernetwork", body, None, user)


def _of_both(given: Mapping[str, Any], kind: training.Kind) -> dict[str, Any]:
    """The fields as the API has them: those that both trainings share, and the chosen one's own."""
    body = {
        **given,
        "learn_rate": given[f"{kind}_learn_rate"],
        f"save_{kind}_every": given["save_every"],
    }
    if not given["preview_from_txt2img"]:
        body = {name: value for name, value in body.items() if not name.startswith("preview_")}
    return body
