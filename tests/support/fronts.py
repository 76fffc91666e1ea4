"""Front ends of a queue: in a thread of the test, or as processes of their own; and the ways to talk to them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from sdwebui_api import serving
from sdwebui_api.api.factory import create_app
from sdwebui_api.api.frontend import create_frontend
from sdwebui_api.api.queue import build_queue, callback_check
from sdwebui_api.api.services import Services
from sdwebui_api.config.flags import Flags, parse_flags
from sdwebui_api.queueing.service import QueueService
from sdwebui_api.staffing import staff_of
from tests.support.fakes import fake_services

ROOT = Path(__file__).parents[2]
PROTOBUF = "application/vnd.google.protobuf"
START_SECONDS = 180
PATIENCE = 60.0
"""Seconds for what comes within milliseconds on an idle machine; CI's may stall."""

http = httpx.Client(timeout=120)
"""One for all tests: making one takes longer than most answers."""


@dataclass
class Front:
    """One front end. `queue` only where it runs in this process."""

    url: str
    queue: QueueService | None = None
    server: serving.Server | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def input(self) -> str:
        return f"{self.url}/api/predict/sd_async"

    @property
    def sink(self) -> str:
        return f"{self.input}/sink"

    def put(self, data: bytes | str = b"x", *, to: str | None = None, **query: Any) -> int:
        """The index."""
        answer = http.post(to or self.input, content=data, params=query)
        assert answer.status_code == 200, answer.text
        return int(answer.text)

    def length(self, of: str | None = None) -> int:
        return int(http.get(of or self.input, params={"_attrs_": "true"}).json()["stream.length"])

    def watch(
        self, of: str | None = None, *, uid: str = "u", gid: str = "eas", token: str | None = None, **query: Any
    ) -> ClientConnection:
        """As the SDKs connect: no extension, no subprotocol, no pings of the library."""
        params = {"_watch_": "true", "_index_": 0, "_window_": 5, **query}
        headers = {"X-EAS-QueueService-Redis-Uid": uid, "X-EAS-QueueService-Redis-Gid": gid, "Accept": PROTOBUF}
        if token is not None:
            headers["Authorization"] = token
        url = str(httpx.URL(of or self.input, params={name: str(value) for name, value in params.items()}))
        return connect(
            url.replace("http://", "ws://"), additional_headers=headers, compression=None, ping_interval=None,
            max_size=None, open_timeout=PATIENCE, legacy=True,
        )  # fmt: skip


def wait_until(condition: Any, seconds: float = PATIENCE, what: str = "the condition") -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true within {seconds} s"
        time.sleep(0.01)


@contextmanager
def run_front(queue_url: str, folder: Path, *words: str, **config: Any) -> Iterator[Front]:
    """A front end in a thread; `config` overrides uvicorn's."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = parse_flags(["--queue-url", queue_url, "--data-dir", str(folder), *words], environ={})
    queue = build_queue(flags, folder)
    with _in_thread(create_frontend(flags, queue, callback_check(flags)), flags, queue, config) as front:
        yield front


@contextmanager
def run_whole_server(queue_url: str, folder: Path, *words: str) -> Iterator[tuple[Front, Services]]:
    """The API, its queue and a worker in one, as `launch.py` composes them, over a fake generator."""
    services = fake_services(folder, "--queue-url", queue_url, *words, concurrency=4)
    services.queue = build_queue(services.flags, folder)
    services.companions.append(staff_of(services, services.queue, lambda: False).beside)
    with _in_thread(create_app(services), services.flags, services.queue, {}) as front:
        yield front, services
    services.runner.drain(5)


@contextmanager
def _in_thread(app: Any, flags: Flags, queue: QueueService, config: Mapping[str, Any]) -> Iterator[Front]:
    settings = serving.server_config(app, replace(flags, port=0))
    for name, value in config.items():
        assert hasattr(settings, name)
        setattr(settings, name, value)
    opened = threading.Event()
    server = serving.Server(settings, opened.set, queue.closing.set)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert opened.wait(PATIENCE), "the server did not start"
    try:
        yield Front(f"http://127.0.0.1:{server.open_port}", queue, server)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server did not stop"


def start_front(queue_url: str, folder: Path, *words: str, port: int = 0) -> Front:
    """As a process of its own, serving already. Whoever starts it ends it."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"front-{time.monotonic_ns()}.log"
    command = [
        sys.executable, "-m", "sdwebui_api", "frontend", "--queue-url", queue_url, "--data-dir", str(folder),
        "--port", str(port), *words,
    ]  # fmt: skip
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        for line in log.read_text().splitlines():
            if line.startswith("Running on "):
                return Front(line.split()[2], process=process)
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"the front end does not start:\n{log.read_text()}")


@contextmanager
def front_process(queue_url: str, folder: Path, *words: str, port: int = 0) -> Iterator[Front]:
    front = start_front(queue_url, folder, *words, port=port)
    process = front.process
    assert process is not None
    try:
        yield front
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait(5)
