"""The server itself: health, memory, loading and unloading, stopping."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse

from sdwebui_api.api.response_schema import MemoryResponse, answers
from sdwebui_api.api.services import server_of, services_of
from sdwebui_api.errors import NotFound, Unavailable

health_router = APIRouter(prefix="/health", tags=["health"])
router = APIRouter(prefix="/sdapi/v1", tags=["server"])
stop_router = APIRouter(prefix="/sdapi/v1", tags=["server"])
"""Included only with `--api-server-stop`."""
plain_stop_router = APIRouter(tags=["server"])
"""Included only with `--add-stop-route`."""


@health_router.get("/live")
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@health_router.get("/ready")
async def ready(request: Request) -> JSONResponse:
    """200 when a request would be served; 503 while the checkpoint loads, while shutting down, without any; with
    a queue, until its store has been reached."""
    services = server_of(request)
    if services.runner.draining:
        return JSONResponse({"status": "stopping"}, 503)
    if services.catalog.checkpoints.default() is None:
        return JSONResponse({"status": "no checkpoint"}, 503)
    if not services.engine.ready():
        return JSONResponse({"status": "loading"}, 503)
    if services.queue is not None and not services.queue.ready:
        return JSONResponse({"status": "waiting for the store"}, 503)
    return JSONResponse({"status": "ok"})


@router.get("/memory", **answers(MemoryResponse))
async def memory(request: Request) -> dict[str, Any]:
    services = services_of(request)
    return await services.off_loop(services.engine.memory)


@router.post("/unload-checkpoint")
async def unload_checkpoint(request: Request) -> dict[str, Any]:
    """Gives back the memory of models that no job uses; the next request loads again."""
    services = services_of(request)
    await services.off_loop(services.engine.unload)
    return {}


@router.post("/reload-checkpoint")
async def reload_checkpoint(request: Request) -> dict[str, Any]:
    """Loads the current checkpoint and answers when it is there."""
    services = services_of(request)
    checkpoint = services.current_checkpoint()
    if checkpoint is None:
        raise NotFound("There is no checkpoint")
    await services.off_loop(services.engine.warm, checkpoint)
    return {}


@stop_router.post("/server-kill")
async def server_kill(request: Request) -> str:
    """Ends the process at once; running jobs are lost."""
    return _stop(request, "kill")


@stop_router.post("/server-stop")
async def server_stop(request: Request) -> str:
    """Finishes what was admitted, then ends the process."""
    return _stop(request, "stop")


@stop_router.post("/server-restart")
async def server_restart(request: Request) -> str:
    """Finishes what was admitted, then starts anew with the same command line."""
    return _stop(request, "restart")


@plain_stop_router.post("/_stop")
async def plain_stop(request: Request) -> PlainTextResponse:
    """As server-stop, for scripts that stop A1111's page."""
    return PlainTextResponse(_stop(request, "stop"))


def _stop(request: Request, kind: Any) -> str:
    stop = services_of(request).stop_server
    if stop is None:
        raise Unavailable("This server cannot be stopped from here")
    stop(kind)
    return {"kill": "Killed.", "stop": "Stopping.", "restart": "Restarting."}[kind]
