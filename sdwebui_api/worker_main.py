"""`launch.py worker`: the engine and a worker on the queue, without the HTTP doors.

The requests are answered by the very application that `launch.py` serves, called in-process. With `--metrics-port` it
also listens, for `/metrics` and `/health/*` alone.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from sdwebui_api.api.errors import not_found
from sdwebui_api.api.factory import create_app
from sdwebui_api.api.services import Services
from sdwebui_api.config.flags import Flags
from sdwebui_api.errors import BadRequest, SdWebUIError
from sdwebui_api.queueing.staff import Staff
from sdwebui_api.staffing import staff_of

log = logging.getLogger(__name__)

OPEN_PATHS = ("/health/", "/metrics")


def serve(flags: Flags) -> int:
    """Works until stopped. 0 after an orderly stop, 1 when it could not start."""
    from sdwebui_api.app import build, warm_in_background

    flags = replace(flags, nowebui=True)  # without a page; with a queue, also when no address was given
    try:
        services = build(flags)
        if flags.skip_load_model_at_start:
            return work(services)
        return work(services, warm_in_background(services).is_alive)
    except SdWebUIError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1


def work(services: Services, loading: Callable[[], bool] = lambda: False) -> int:
    """Works on `services.queue` until SIGTERM or SIGINT; a second signal ends the process at once.

    `loading()`: the first checkpoint is on its way; nothing is taken before. Raises NotFound and BadRequest for
    unusable flags.
    """
    if services.queue is None:
        raise BadRequest("a worker needs a queue")
    staff = staff_of(services, services.queue, loading)
    services.companions.append(staff.beside)
    asyncio.run(_work(services, services.queue.name, staff))
    services.executor.shutdown(wait=False)
    services.preview_executor.shutdown(wait=False)
    if services.results is not None:
        services.results.close()
    return 0


async def _work(services: Services, name: str, staff: Staff) -> None:
    app = create_app(services)
    stopping = asyncio.Event()
    with _told_to_stop(stopping):
        async with app.router.lifespan_context(app), _watched(app, services.flags):
            print(f"Working on {name}", flush=True)
            await stopping.wait()
            staff.stop()
            # The job threads must have ended too: torch aborts a process that ends while they compute.
            drained = asyncio.to_thread(_drain, services)
            await asyncio.gather(drained, asyncio.to_thread(staff.wait, services.flags.drain_seconds + 60.0))


def _drain(services: Services) -> None:
    log.info("stopping: waiting for %d jobs", len(services.runner.live_jobs()))
    services.runner.drain(services.flags.drain_seconds)


@contextmanager
def _told_to_stop(stopping: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def stop() -> None:
        stopping.set()
        for number in signals:
            loop.remove_signal_handler(number)  # the next one kills

    for number in signals:
        loop.add_signal_handler(number, stop)
    yield


@asynccontextmanager
async def _watched(app: ASGIApp, flags: Flags) -> AsyncIterator[None]:
    """Probes and metrics on a port of their own, when one was given."""
    if flags.metrics_port is None:
        yield
        return
    door = _Door(
        uvicorn.Config(
            OnlyPaths(app, OPEN_PATHS), host=flags.host, port=flags.metrics_port, lifespan="off", log_config=None,
            access_log=False, server_header=False, timeout_graceful_shutdown=1,
        )
    )  # fmt: skip
    serving = asyncio.create_task(door.serve())
    try:
        yield
    finally:
        door.should_exit = True
        await serving


class _Door(uvicorn.Server):
    """Leaves the signals to the worker."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1] if self.servers else self.config.port
        print(f"Metrics and health on http://{self.config.host}:{port}", flush=True)


class OnlyPaths:
    """404 for every path that begins with none of `prefixes`."""

    def __init__(self, app: ASGIApp, prefixes: tuple[str, ...]) -> None:
        self._app = app
        self._prefixes = prefixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(self._prefixes):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await not_found()(scope, receive, send)
