"""A server with the ModelZoo over fake services, and a host of files beside it that breaks off when told to."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest

from sdwebui_api.api.services import Services
from sdwebui_api.scripting.extensions import ExtensionFolder, script_files
from sdwebui_api.scripting.host import ScriptHost
from sdwebui_api.scripting.loading import on_import_path
from tests.support.fakes import fake_services
from tests.support.hosts import Host, running_host
from tests.support.server import run_in_thread

EXTENSION = Path(__file__).resolve().parents[2] / "extensions" / "model_zoo"

with on_import_path(EXTENSION):  # as the server does, and no longer
    import model_zoo  # noqa: F401

CONTENT = bytes(range(256)) * (3 * 2**12)
"""3 MiB: several writes."""


class Files:
    """Answers ranges. `breaks`: after how many bytes of the file each of the next answers ends; `gate`: what comes
    after the first MiB waits for it."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.etag: str | None = '"one"'
        self.breaks: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.ranges: list[str | None] = []

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.ranges.append(asked)
        fresh = handler.headers.get("If-Range") in (None, self.etag)
        begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and fresh else 0  # type: ignore[index]
        if begin >= len(self.content):
            return self._head(handler, 416, 0, {"Content-Range": f"bytes */{len(self.content)}"})
        total = len(self.content)
        ranges = {"Content-Range": f"bytes {begin}-{total - 1}/{total}"} if begin else {}
        self._head(handler, 206 if begin else 200, total - begin, ranges)
        end = self.breaks.pop(0) if self.breaks else total
        for start in range(begin, end, 2**16):
            if start >= 2**20 and not self.gate.is_set():
                handler.wfile.flush()
                self.gate.wait(30)
            handler.wfile.write(self.content[start : min(start + 2**16, end)])

    def _head(self, handler: BaseHTTPRequestHandler, status: int, length: int, headers: dict[str, str]) -> None:
        handler.send_response(status)
        marks = {"ETag": self.etag} if self.etag else {}
        for name, value in {**headers, **marks, "Content-Length": str(length)}.items():
            handler.send_header(name, value)
        handler.end_headers()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with running_host() as host:
        yield host


@pytest.fixture
def files(host: Host) -> Files:
    files = Files()
    host.pages["/tiny.safetensors"] = files
    return files


class Zoo:
    """The routes, as a client sees them."""

    def __init__(self, client: httpx.Client, data: Path, host: Host) -> None:
        self.client, self.data, self.host = client, data, host
        self.folder = data / "models" / "Stable-diffusion"

    def offer(self, *entries: dict[str, Any]) -> None:
        (self.data / "model_zoo.json").write_text(json.dumps({"models": entries}), encoding="utf-8")

    def entry(self, **more: Any) -> dict[str, Any]:
        found = {
            "id": "tiny", "name": "Tiny", "kind": "checkpoint", "licence": "MIT", "size": len(CONTENT),
            "url": f"http://127.0.0.1:{self.host.port}/tiny.safetensors",
            "sha256": hashlib.sha256(CONTENT).hexdigest(), **more,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}

    def start(self, id: str = "tiny") -> httpx.Response:
        return self.client.put("download", params={"id": id})

    def stop(self, id: str = "tiny", **more: Any) -> httpx.Response:
        return self.client.delete("download", params={"id": id, **more})

    def all(self) -> dict[str, Any]:
        answer = self.client.get("models")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def row(self, id: str = "tiny") -> dict[str, Any]:
        return next(row for row in self.all()["models"] if row["id"] == id)

    def wait(self, ready: Callable[[dict[str, Any]], bool], id: str = "tiny") -> dict[str, Any]:
        end = time.monotonic() + 180
        while not ready(row := self.row(id)):
            assert time.monotonic() < end, row
            time.sleep(0.02)
        return row

    def settled(self, id: str = "tiny") -> dict[str, Any]:
        return self.wait(lambda row: row["state"] not in ("waiting", "downloading", "verifying"), id)


def services_with_zoo(data: Path, *flags: str) -> Services:
    services = fake_services(
        data, "--models-dir", str(data / "models"), "--image-link-allow", "127.0.0.1", *flags
    )  # fmt: skip
    extension = ExtensionFolder(EXTENSION, builtin=True)
    services.scripts = ScriptHost(script_files([], [extension]), [extension])
    services.scripts.load()
    assert services.scripts.failures == {}
    return services


@contextmanager
def running_zoo(data: Path, host: Host, *flags: str) -> Iterator[Zoo]:
    with (
        run_in_thread(services_with_zoo(data, *flags)) as url,
        httpx.Client(base_url=f"{url}/model_zoo/v1/", timeout=60) as client,
    ):
        yield Zoo(client, data, host)


@pytest.fixture
def zoo(tmp_path: Path, host: Host) -> Iterator[Zoo]:
    with running_zoo(tmp_path, host) as zoo:
        zoo.offer(zoo.entry())
        yield zoo
