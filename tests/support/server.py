"""A server on a free port, in a thread: the real one on the golden models, or the doors with a fake generator."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn

from sdwebui_api.api.factory import create_app
from sdwebui_api.api.services import Services
from tests.support.fakes import fake_services, golden_flags


class RunningServer:
    """`url`, an HTTP client for it, and the services behind it."""

    def __init__(self, services: Services, url: str) -> None:
        self.services = services
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=300)


@contextmanager
def running(services: Services) -> Iterator[RunningServer]:
    """Serves `services` until the context ends."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(services), log_config=None, access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive() and time.monotonic() < end, "the server did not start"
        time.sleep(0.01)
    running_server = RunningServer(services, f"http://127.0.0.1:{listener.getsockname()[1]}")
    try:
        yield running_server
    finally:
        running_server.client.close()
        services.runner.drain(5)
        server.should_exit = True
        thread.join(10)
        listener.close()


@contextmanager
def golden_server(data_dir: Path, *flags: str) -> Iterator[RunningServer]:
    """The real thing on the golden models, CPU and 32 bits, its checkpoint loaded. `flags` are added."""
    from sdwebui_api.app import build, warm_in_background

    services = build(golden_flags(data_dir, *flags))
    warm_in_background(services).join()
    with running(services) as server:
        assert server.client.get("/health/ready").status_code == 200
        yield server


@contextmanager
def fake_server(data_dir: Path, *flags: str, max_queue: int = 256, concurrency: int = 1) -> Iterator[RunningServer]:
    """The doors over a fake generator."""
    with running(fake_services(data_dir, *flags, max_queue=max_queue, concurrency=concurrency)) as server:
        yield server
