"""The unmodified Python SDK (eas_prediction) against this server, in a virtual environment of its own: it needs an old
protobuf. The scripts that it runs there are in `sdk/`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sdwebui_api.api.eas_answer import failure_body
from sdwebui_api.queueing.inprocess import InProcess
from sdwebui_api.queueing.settings import QueueSettings
from sdwebui_api.queueing.stores.build import make_store
from sdwebui_api.queueing.worker import Worker, WorkerRules
from tests.support.fronts import run_front, run_whole_server
from tests.support.hosts import running_host
from tests.support.server import run_fake_server

pytestmark = pytest.mark.slow
PACKAGE = "eas-prediction==0.36"
SCRIPTS = Path(__file__).parent / "sdk"


@pytest.fixture(scope="session")
def sdk_python() -> str:
    """An interpreter with the package. Made once per machine and Python version."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdwebui_api-tests"
    folder = cache / f"{PACKAGE.replace('==', '-')}-{sys.version_info[0]}.{sys.version_info[1]}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (python.exists() and _imports(python)):
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", PACKAGE], check=True)
    return str(python)


def _imports(python: Path) -> bool:
    return subprocess.run([python, "-c", "import eas_prediction"], capture_output=True).returncode == 0


def run(python: str, script: str, *words: str) -> str:
    """What the script printed last. Fails with all of its output."""
    done = subprocess.run(
        [python, SCRIPTS / script, *words], capture_output=True, text=True, timeout=300, cwd=SCRIPTS.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().splitlines()[-1]


async def _two_keys(scope: Any, receive: Any, send: Any) -> None:
    """The service that the package's tests expect behind the queue: a list of one object with two keys."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b'[{"scores": 1, "labels": 2}]'})


@contextmanager
def worker_of(queue_url: str) -> Iterator[None]:
    """The real worker on its own connection to the store, over the service above."""
    stop = threading.Event()

    async def work() -> None:
        store = make_store(QueueSettings("sd_async", queue_url))
        await store.open()
        worker = Worker(lambda: store, InProcess(_two_keys), WorkerRules("sd_async", 8), failure_body)
        running = asyncio.create_task(worker.run())
        await asyncio.to_thread(stop.wait)
        worker.stop()
        await running
        await store.close()

    thread = threading.Thread(target=asyncio.run, args=(work(),), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


def test_the_tests_of_the_package_pass(queue_url, tmp_path, sdk_python):
    with run_front(queue_url, tmp_path / "data", "--token", "s3cret") as front, worker_of(queue_url):
        assert run(sdk_python, "package_tests.py", front.url.removeprefix("http://"), "s3cret") == "ran 9"


def test_the_flow_of_the_reference(queue_url, tmp_path, sdk_python):
    words = ("--token", "s3cret", "--image-link-allow", "127.0.0.1")
    with running_host() as host, run_whole_server(queue_url, tmp_path, *words) as (front, _):
        link = f"http://127.0.0.1:{host.port}/ok.png"
        seen = json.loads(run(sdk_python, "flow.py", front.url.removeprefix("http://"), "s3cret", link))
    assert len(seen["sent"]) == 10 == len(seen["received"])
    assert {row["tags"]["requestId"]: row["tags"]["task_id"] for row in seen["received"]} == seen["sent"]
    for row in seen["received"]:
        assert row["status"] == 0 and "lastCode" not in row["tags"]
        path = Path(row["image_url"])
        assert path.is_file() and tmp_path in path.parents and path.suffix == ".png"
        kind = row["tags"]["task_id"].partition("_")[0]
        assert path.parent.parent.name == f"{kind}-images"
        if kind == "img2img":
            assert tmp_path / "tmp" / "outputs" in path.parents and row["id_task"].startswith("caller-")
    assert len(host.hits) == 5

    clients = seen["clients"]
    assert clients["search"] == {} or clients["search"].keys() == {"ConsumerId", "IsPending", "WaitCount"}
    assert clients["search_done"] == {} and clients["sink_length"] == "0"
    assert clients["input"]["stream.length"] == "0" and clients["input"]["stream.lastEntry"] == "10"
    assert clients["by_request_id"] == ["item 3"] and clients["by_index"] == ["item 2"]
    assert clients["by_tags"] == ["item 1"] and clients["deleted"] == "OK"
    assert clients["left"] == ["item 1", "item 5"] and clients["length"] == "0"
    assert clients["nothing"] == [] and 4 < clients["waited"] < 5, "answered before the socket's own timeout"
    assert seen["failed"]["tags"]["lastCode"] == "422" and seen["failed"]["tags"]["task_id"] == "broken"
    assert seen["failed"]["status"] == 422


def test_the_synchronous_client_is_answered_by_the_route(tmp_path, sdk_python):
    with run_fake_server(tmp_path, "--token", "s3cret") as (url, _):
        seen = json.loads(run(sdk_python, "gateway.py", url.removeprefix("http://"), "s3cret"))
    assert seen == {"status": 200, "images": 1, "root": 200, "wrong_token": 401, "bad_value": 422}
