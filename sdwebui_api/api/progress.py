"""How far the work is, and the buttons that stop it: GET progress, POST interrupt, POST skip, and the page's twins."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from sdwebui_api.api.response_schema import ProgressResponse, answers
from sdwebui_api.api.services import Services, services_of, user_of
from sdwebui_api.api.wire import Int, Name, WireModel
from sdwebui_api.errors import NotFound
from sdwebui_api.jobs.job import Job, Preview

if TYPE_CHECKING:
    from PIL import Image

router = APIRouter(tags=["progress"])

PREVIEW_PATIENCE = 0.03
"""Seconds a progress request waits for a picture to be drawn; a slower one is shown by the next request."""


@router.get("/sdapi/v1/progress", **answers(ProgressResponse))
async def progress(
    request: Request, skip_current_image: bool = False, id: str | None = None, id_task: str | None = None
) -> dict[str, Any]:
    """The caller's oldest running job, or the job `id`. Idle: `progress` 0 and `state.job_count` 0."""
    services = services_of(request)
    job = _job_of(services, user_of(request), id or id_task)
    if job is None or not job.live:
        return _idle(job)
    now = job.snapshot()
    image = None if skip_current_image else await live_preview(services, job)
    return {
        "progress": now.progress,
        "eta_relative": now.eta_relative,
        "state": _state(now, now.job, now.job_count, now.sampling_step),
        "current_image": base64.b64encode(image.data).decode() if image else None,
        "textinfo": now.textinfo,
    }


@router.post("/sdapi/v1/interrupt")
async def interrupt(request: Request, id: str | None = None) -> dict[str, Any]:
    """Ends the caller's running jobs, or the job `id`, with what they have. Nothing running: no effect."""
    services = services_of(request)
    for job in _targets(services, user_of(request), id):
        services.runner.interrupt(job)
    return {}


@router.post("/sdapi/v1/skip")
async def skip(request: Request, id: str | None = None) -> None:
    """Ends the batch that the caller's running jobs are at; they go on with the next one."""
    for job in _targets(services_of(request), user_of(request), id):
        job.skip()


class ProgressQuestion(WireModel):
    id_task: Name | None = None
    id_live_preview: Int = -1
    live_preview: bool = True


@router.post("/internal/progress")
async def internal_progress(question: ProgressQuestion, request: Request) -> dict[str, Any]:
    """What A1111's page polls about one task."""
    services = services_of(request)
    job = services.runner.get(question.id_task or "", user_of(request))
    if job is None or not job.live:
        return _internal(job, question.id_live_preview, completed=job is not None, textinfo="Waiting...")
    if job.state == "queued":
        place = (services.runner.position(job) or 0) + 1
        return _internal(job, question.id_live_preview, queued=True, textinfo=f"In queue: {place}")
    now = job.snapshot()
    answer = _internal(job, question.id_live_preview, active=True, textinfo=now.textinfo)
    answer["progress"] = now.fraction
    answer["eta"] = now.elapsed / now.fraction - now.elapsed if now.fraction > 0 else None
    image = await live_preview(services, job) if question.live_preview else None
    if image and image.number != question.id_live_preview:
        kind = job.preview_settings.image_format
        answer["live_preview"] = f"data:image/{kind};base64,{base64.b64encode(image.data).decode()}"
        answer["id_live_preview"] = image.number
    return answer


@router.get("/internal/pending-tasks")
async def pending_tasks(request: Request) -> dict[str, Any]:
    user = user_of(request)
    live = services_of(request).runner.live_jobs()
    tasks = [job.id for job in live if job.state == "queued" and job.user == user]
    return {"size": len(tasks), "tasks": tasks}


@router.get("/internal/ping")
async def ping() -> dict[str, Any]:
    return {}


def _internal(
    job: Job | None,
    preview_id: int,
    *,
    active: bool = False,
    queued: bool = False,
    completed: bool = False,
    textinfo: str | None = None,
) -> dict[str, Any]:
    return {
        "active": active,
        "queued": queued,
        "completed": completed,
        "progress": None,
        "eta": None,
        "live_preview": None,
        "id_live_preview": preview_id,
        "textinfo": textinfo,
    }


def _job_of(services: Services, user: str | None, id: str | None) -> Job | None:
    """The job `id`; else what runs, else what waits, else what ran last (its flags show while idle)."""
    if id:
        return _named(services, user, id)
    live = [job for job in services.runner.live_jobs() if job.user == user]
    running = [job for job in live if job.state == "running"]
    last = services.runner.last_started()
    return next(iter(running or live), last if last and last.user == user else None)


def _targets(services: Services, user: str | None, id: str | None) -> list[Job]:
    if id:
        return [_named(services, user, id)]
    return [job for job in services.runner.live_jobs() if job.state == "running" and job.user == user]


def _named(services: Services, user: str | None, id: str) -> Job:
    job = services.runner.get(id, user)
    if job is None:
        raise NotFound(f"There is no job {id[:100]!r}", field="id")
    return job


def _state(now: Any, job: str, job_count: int, sampling_step: int) -> dict[str, Any]:
    return {
        "skipped": now.skipped,
        "interrupted": now.interrupted,
        "stopping_generation": False,
        "job": job,
        "job_count": job_count,
        "job_timestamp": now.job_timestamp,
        "job_no": now.job_no,
        "sampling_step": sampling_step,
        "sampling_steps": now.sampling_steps,
    }


def _idle(last: Job | None) -> dict[str, Any]:
    """As A1111: the last job's flags and numbers stay, but no job, count 0 and step 0."""
    job = last or Job("none", "")
    state = _state(job.snapshot(), "", 0, 0)
    if last is None:
        state["job_timestamp"] = "0"
    return {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": None, "textinfo": None}


async def live_preview(services: Services, job: Job) -> Preview | None:
    """The newest picture that can be had without making the client, or the sampling, wait."""
    if not job.preview_settings.wanted or job.state != "running":
        return None
    if not job.preview_due:
        return job.last_preview()
    loop = asyncio.get_running_loop()
    drawing = loop.run_in_executor(services.preview_executor, job.draw_preview, _encode)
    done, _ = await asyncio.wait({drawing}, timeout=PREVIEW_PATIENCE)
    return drawing.result() if done else job.last_preview()


def _encode(image: Image.Image, image_format: str) -> bytes:
    from sdwebui_api.imaging.codec import encode_image

    return encode_image(image, image_format)
