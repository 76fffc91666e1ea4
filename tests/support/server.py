"""Servers on a free port: the real one as a process of its own, or the doors with a fake generator in a thread."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from sdwebui_api.api.factory import create_app
from sdwebui_api.api.services import Services
from tests.support.fakes import GOLDEN, fake_services

ROOT = Path(__file__).parents[2]
EMBEDDED = ROOT / "model_store" / "Stable-diffusion"
START_SECONDS = 180


@dataclass(frozen=True)
class RunningServer:
    url: str
    pid: int
    data_dir: Path = Path()


@contextmanager
def run_golden_server(data_dir: Path, *flags: str) -> Iterator[RunningServer]:
    """The real server, ready to serve: CPU and fp32, the recorded model tree with the embedded model beside it.

    The embedded model is there twice, the second time as `emoji-mini-copy`. `flags` are added to the command line.
    """
    models = _model_tree(data_dir / "models")
    command = [
        sys.executable, "-m", "sdwebui_api", "--port", "0", "--nowebui", "--no-half", "--use-cpu", "all",
        "--max-step-batch", "1", "--data-dir", str(data_dir), "--models-dir", str(models),
        "--embeddings-dir", str(models / "embeddings"), "--styles-file", str(models / "styles.csv"),
        "--ckpt", "tiny-sd.safetensors", *flags,
    ]  # fmt: skip
    log = data_dir / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        try:
            url = _wait_until_ready(process, log)
            yield RunningServer(url, process.pid, data_dir)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _model_tree(folder: Path) -> Path:
    """Links to the golden models, and to the embedded one under two names."""
    checkpoints = folder / "Stable-diffusion"
    checkpoints.mkdir(parents=True)
    for entry in (GOLDEN / "models").iterdir():
        if entry.name != "Stable-diffusion":
            (folder / entry.name).symlink_to(entry)
    for entry in (GOLDEN / "models" / "Stable-diffusion").iterdir():
        (checkpoints / entry.name).symlink_to(entry)
    for entry in EMBEDDED.glob("emoji-mini.*"):
        for name in (entry.name, entry.name.replace("emoji-mini", "emoji-mini-copy", 1)):
            (checkpoints / name).symlink_to(entry)
    return folder


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_SECONDS
    url = ""
    while time.monotonic() < end:
        assert process.poll() is None, f"the server ended:\n{log.read_text()[-4000:]}"
        url = url or _announced(log)
        if url and httpx.get(f"{url}/health/ready", timeout=60).status_code == 200:
            return url
        time.sleep(0.1)
    raise AssertionError(f"the server is not ready after {START_SECONDS} s:\n{log.read_text()[-4000:]}")


def _announced(log: Path) -> str:
    for line in log.read_text().splitlines():
        if line.startswith("Running on "):
            return line.split()[2]
    return ""


@contextmanager
def run_in_thread(services: Services, add_page: Callable[[FastAPI, Services], None] | None = None) -> Iterator[str]:
    """Serves `services` until the context ends; yields the URL. add_page: `webui.page.mount_page`, for a page too."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = create_app(services)
    if add_page is not None:
        add_page(app, services)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    end = time.monotonic() + 120
    while not server.started:
        assert thread.is_alive() and time.monotonic() < end, "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        services.runner.drain(5)
        server.should_exit = True
        thread.join(10)
        listener.close()


@contextmanager
def run_fake_server(
    data_dir: Path, *flags: str, max_queue: int = 256, concurrency: int = 1
) -> Iterator[tuple[str, Services]]:
    """The doors over a fake generator; yields the URL and what is behind it."""
    services = fake_services(data_dir, *flags, max_queue=max_queue, concurrency=concurrency)
    with run_in_thread(services) as url:
        yield url, services
