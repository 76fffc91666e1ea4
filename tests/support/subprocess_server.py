"""The program as users start it, in a process of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

ROOT = Path(__file__).parent.parent.parent
GOLDEN_MODELS = ROOT / "tests" / "golden" / "models"
EMBEDDED = ROOT / "model_store" / "Stable-diffusion"
START_TIMEOUT = 180.0


@dataclass(frozen=True)
class ServerProcess:
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_models(folder: Path) -> Path:
    """A model tree with the golden checkpoint, the embedded one, and a copy of it as a third."""
    shutil.copytree(GOLDEN_MODELS, folder, ignore=shutil.ignore_patterns("ControlNet", "Lora", "hypernetworks"))
    for ending in ("safetensors", "yaml"):
        for name in ("emoji-mini", "emoji-mini-copy"):
            target = folder / "Stable-diffusion" / f"{name}.{ending}"
            shutil.copyfile(EMBEDDED / f"emoji-mini.{ending}", target)
            target.chmod(0o644)
    return folder


@contextmanager
def server_process(folder: Path, *flags: str, models: Path = GOLDEN_MODELS) -> Iterator[ServerProcess]:
    """`launch.py` on CPU in 32 bits with the data in `folder`; ready when the context begins."""
    port = free_port()
    command = [sys.executable, str(ROOT / "launch.py"), "--skip-prepare-environment", "--nowebui"]
    command += ["--port", str(port), "--data-dir", str(folder), "--models-dir", str(models), "--no-half"]
    command += ["--embeddings-dir", str(models / "embeddings"), "--styles-file", str(models / "styles.csv")]
    command += ["--use-cpu", "all", *flags]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=dict(os.environ))
    server = ServerProcess(f"http://127.0.0.1:{port}", process, log)
    try:
        wait_until_ready(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_until_ready(server: ServerProcess) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended with {server.process.returncode}: {server.log.read_text()[-3000:]}")
        try:
            if requests.get(f"{server.url}/health/ready", timeout=2).ok:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"not ready within {START_TIMEOUT:.0f} s: {server.log.read_text()[-3000:]}")
