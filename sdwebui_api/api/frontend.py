"""The application of a front end: the queue's routes and what belongs to them, without anything that makes pictures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response

from sdwebui_api import __version__
from sdwebui_api.api.auth import Doorkeeper
from sdwebui_api.api.errors import install_error_handlers
from sdwebui_api.api.layers import layers
from sdwebui_api.api.metrics import families_of_queue, metrics_route
from sdwebui_api.api.queue import no_job, queued_task, task_row
from sdwebui_api.config.flags import Flags
from sdwebui_api.metrics import Metrics
from sdwebui_api.queueing.model import TaskRecord
from sdwebui_api.queueing.routes import CheckCallback, queue_routes
from sdwebui_api.queueing.service import QueueService


def create_frontend(flags: Flags, queue: QueueService, check_callback: CheckCallback | None = None) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with queue.running():
            yield

    metrics = Metrics()
    app = FastAPI(
        title="sdwebui_api front end",
        version=__version__,
        middleware=layers(flags, metrics, Doorkeeper(flags)),
        lifespan=lifespan,
    )
    install_error_handlers(app)
    _add_health(app, queue)
    _add_jobs(app, queue)
    app.router.routes.append(metrics_route(metrics, lambda: families_of_queue(queue)))
    app.router.routes.extend(queue_routes(queue, check_callback, per_user=flags.cluster))
    return app


def _add_health(app: FastAPI, queue: QueueService) -> None:
    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/health/ready")
    async def ready(response: Response) -> dict[str, str]:
        """The store has been reached."""
        if queue.ready:
            return {"status": "ok"}
        response.status_code = 503
        return {"status": "waiting for the store"}


def _add_jobs(app: FastAPI, queue: QueueService) -> None:
    async def own(id: str, request: Request) -> TaskRecord:
        record = await queued_task(queue, id, getattr(request.state, "user", None))
        if record is None:
            raise no_job(id)
        return record

    @app.get("/sdapi/v1/jobs/{id:path}")
    async def get_job(id: str, request: Request) -> dict[str, Any]:
        """What became of a queued request."""
        return await task_row(queue, await own(id, request))

    @app.delete("/sdapi/v1/jobs/{id:path}")
    async def cancel_job(id: str, request: Request) -> dict[str, Any]:
        """Ends it, waiting or running, with a result that says so. Ended already: no effect."""
        if (await own(id, request)).finished is None:
            await queue.cancel(id)
        return await get_job(id, request)
