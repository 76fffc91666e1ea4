"""Jobs by id: list, look, cancel, follow. Ours; A1111 has no such thing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from sdwebui_api.api.queue import no_job, queued_task, task_extras, task_row
from sdwebui_api.api.services import Services, services_of, user_of
from sdwebui_api.jobs.events import changes
from sdwebui_api.jobs.job import Job
from sdwebui_api.queueing.model import TaskRecord
from sdwebui_api.queueing.store import StoreUnavailable

LIVE = ("queued", "running")
router = APIRouter(prefix="/sdapi/v1/jobs", tags=["jobs"])


@router.get("")
async def list_jobs(request: Request) -> list[dict[str, Any]]:
    """The caller's jobs: running and waiting in the order of admission, then ended ones, newest first."""
    services, user = services_of(request), user_of(request)
    return [_row(services, job) for job in services.runner.jobs() if job.user == user]


@router.get("/{id:path}/events")
async def job_events(id: str, request: Request) -> StreamingResponse:
    """Server-sent events: `progress` after every change, at last one named after the end's state."""
    services, job = services_of(request), _own_job(id, request)
    return StreamingResponse(
        _events(services, job), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


@router.get("/{id:path}")
async def get_job(id: str, request: Request) -> dict[str, Any]:
    """A queued request is known by its request id from its put on, whichever machine works on it; its row holds the
    `result` at the end."""
    services, job = services_of(request), _found(id, request)
    record = await _record(services, id, request, needed=job is None)
    if services.queue is None or record is None:
        return _row(services, _own_job(id, request))
    if job is not None and job.state in LIVE:
        return {**_row(services, job), **task_extras(record)}
    return await task_row(services.queue, record)


@router.delete("/{id:path}")
async def cancel_job(id: str, request: Request) -> dict[str, Any]:
    """Cancels the job, waiting or running; its request is answered with status 499. Ended: no effect."""
    services, job = services_of(request), _found(id, request)
    record = await _record(services, id, request, needed=job is None)
    if services.queue is not None and record is not None and record.state in LIVE:
        await services.queue.cancel(id)
    if job is not None:
        services.runner.cancel(job)
    return await get_job(id, request)


async def _events(services: Services, job: Job) -> AsyncIterator[str]:
    async for now in changes(job):
        if now is None:
            yield ": still here\n\n"
            continue
        row = _row(services, job)
        name = "progress" if row["state"] in LIVE else row["state"]
        yield f"event: {name}\ndata: {json.dumps(row)}\n\n"


def _found(id: str, request: Request) -> Job | None:
    return services_of(request).runner.get(id, user_of(request))


def _own_job(id: str, request: Request) -> Job:
    job = _found(id, request)
    if job is None:
        raise no_job(id)
    return job


async def _record(services: Services, id: str, request: Request, *, needed: bool) -> TaskRecord | None:
    """Of a queued request. A store that is away matters only to those that are known there alone."""
    if services.queue is None:
        return None
    try:
        return await queued_task(services.queue, id, user_of(request))
    except StoreUnavailable:
        if needed:
            raise
        return None


def _row(services: Services, job: Job) -> dict[str, Any]:
    now = job.snapshot()
    running = job.state == "running"
    ended = {"done": 1.0}.get(job.state, 0.0)
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "summary": job.summary,
        "created": job.created,
        "started": job.started,
        "finished": job.finished,
        "position": services.runner.position(job) if job.state == "queued" else None,
        "progress": now.progress if running else ended,
        "eta_relative": now.eta_relative if running else None,
        "job": now.job,
        "job_count": now.job_count,
        "job_no": now.job_no,
        "sampling_step": now.sampling_step,
        "sampling_steps": now.sampling_steps,
        "interrupted": now.interrupted,
        "skipped": now.skipped,
        "error": str(job.error) if job.error else None,
    }
