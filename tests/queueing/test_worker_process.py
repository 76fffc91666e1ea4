"""`launch.py worker` and the worker inside `launch.py`, as processes, with the real engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sdwebui_api.queueing.model import LAST_CODE, NewItem, sink_of
from tests.queueing.crash.rig import SERVICE, Looker
from tests.queueing.test_callbacks import Receiver
from tests.support.fakes import GOLDEN
from tests.support.server import ROOT, RunningServer, run_golden_server

pytestmark = pytest.mark.slow

QUICK = {"prompt": "a lighthouse", "steps": 1, "width": 64, "height": 64}
LONG = {**QUICK, "steps": 1000, "width": 256, "height": 256}


def until(what: Callable[[], Any], log: Path, seconds: float = 90.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, log.read_text()[-4000:]
        time.sleep(0.05)
    return found


def state_of(looker: Looker, request_id: str) -> str | None:
    record = looker.task(request_id)
    return record.state if record else None


def put(looker: Looker, request_id: str, body: dict[str, Any], **tags: str) -> None:
    tags = {"requestId": request_id, **tags}
    looker.put([NewItem(json.dumps(body).encode(), tags, path="sdapi/v1/txt2img")])


class TestWorkerCommand:
    @pytest.fixture
    def looker(self, tmp_path: Path) -> Iterator[Looker]:
        made = Looker(f"sqlite:///{tmp_path}/queue.sqlite3", tmp_path)
        yield made
        made.close()

    @pytest.fixture
    def process(self, tmp_path: Path, looker: Looker) -> Iterator[subprocess.Popen[bytes]]:
        """With two places, and a drain that is too short for LONG."""
        command = [
            sys.executable, "launch.py", "worker", "--skip-prepare-environment", "--metrics-port", "0",
            "--queue-url", f"sqlite:///{tmp_path}/queue.sqlite3", "--data-dir", str(tmp_path),
            "--models-dir", str(GOLDEN / "models"), "--ckpt", "tiny-sd.safetensors", "--no-half", "--use-cpu", "all",
            "--worker-threads", "2", "--drain-seconds", "1", "--token", "secret",
        ]  # fmt: skip
        with (tmp_path / "worker.log").open("wb") as log:
            running = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        yield running
        running.kill()
        running.wait()

    def test_it_works_is_watched_and_hands_back(self, process, looker, tmp_path):
        log = tmp_path / "worker.log"
        put(looker, "quick", QUICK, task_id="t")
        address = until(lambda: self._address(log), log)
        self._look_at_the_doors(address, log)
        until(lambda: looker.length(sink_of(SERVICE)), log)
        (result,) = looker.results()
        assert result.tags == {"requestId": "quick", "task_id": "t"}
        parameters = json.loads(result.data)["parameters"]
        assert parameters["status"] == 0 and Path(parameters["image_url"]).exists()

        for name in ("long", "long too", "waits"):
            put(looker, name, LONG)
        until(lambda: state_of(looker, "long too") == "running", log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()[-4000:]
        assert [state_of(looker, name) for name in ("long", "long too", "waits")] == ["queued"] * 3
        assert looker.length(sink_of(SERVICE)) == 1
        assert looker.take(3) == [("long", 1), ("long too", 1), ("waits", 1)]

    @staticmethod
    def _address(log: Path) -> str:
        lines = [line for line in log.read_text().splitlines() if line.startswith("Metrics and health on ")]
        return lines[0].split()[-1] if lines else ""

    @staticmethod
    def _look_at_the_doors(address: str, log: Path) -> None:
        assert httpx.get(f"{address}/health/live", timeout=60).status_code == 200
        until(lambda: httpx.get(f"{address}/health/ready", timeout=60).status_code == 200, log)
        assert httpx.get(f"{address}/metrics", timeout=60).status_code == 401
        numbers = httpx.get(f"{address}/metrics", headers={"Authorization": "Bearer secret"}, timeout=60).text
        assert 'sdwebui_queue_consumers{queue="input",service="sd_async"} 1.0' in numbers
        assert "sdwebui_step_batch_size_count" in numbers
        assert httpx.get(f"{address}/sdapi/v1/samplers", timeout=60).status_code == 404
        assert httpx.post(f"{address}/sdapi/v1/txt2img", json=QUICK, timeout=60).status_code == 404
        assert httpx.post(f"{address}/health/../sdapi/v1/txt2img", json=QUICK, timeout=60).status_code == 404


class TestEmbeddedWorker:
    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[RunningServer]:
        flags = ("--worker-threads", "1", "--drain-seconds", "1", "--image-link-allow", "127.0.0.1")
        with run_golden_server(tmp_path, *flags) as running:
            yield running

    def test_doors_and_queue_side_by_side(self, server, tmp_path):
        log = tmp_path / "server.log"
        service = f"{server.url}/api/predict/{SERVICE}"
        receiver = Receiver()
        try:
            asked = {**QUICK, "callback_url": receiver.url}
            answer = httpx.post(
                f"{service}/sdapi/v1/txt2img", params={"requestId": "q", "task_id": "t"}, json=asked, timeout=60
            )
            assert answer.text == "1"
            assert httpx.post(f"{server.url}/sdapi/v1/txt2img", json=QUICK, timeout=60).json()["images"]
            until(lambda: receiver.calls, log)
        finally:
            receiver.close()
        sink = httpx.get(
            f"{service}/sink", params={"requestId": "q", "_timeout_": "30s", "_auto_delete_": "false"}, timeout=60
        )
        assert sink.content == receiver.calls[0][3]
        assert sink.json()["parameters"]["status"] == 0
        assert httpx.get(f"{server.url}/sdapi/v1/jobs/q", timeout=60).json()["state"] == "done"
        self._cancel_and_stop(server, service, tmp_path)

    def _cancel_and_stop(self, server: RunningServer, service: str, folder: Path) -> None:
        log = folder / "server.log"
        url = f"{server.url}/sdapi/v1/jobs"
        for name in ("first", "second"):
            httpx.post(f"{service}/sdapi/v1/txt2img", params={"requestId": name}, json=LONG, timeout=60)
        until(lambda: httpx.get(f"{url}/first", timeout=60).json()["sampling_step"] > 0, log)
        assert httpx.get(f"{server.url}/sdapi/v1/progress", timeout=60).json()["progress"] > 0
        assert httpx.get(f"{url}/second", timeout=60).json()["state"] == "queued"
        httpx.delete(f"{url}/first", timeout=60)
        until(lambda: httpx.get(f"{url}/second", timeout=60).json()["sampling_step"] > 0, log)
        os.kill(server.pid, signal.SIGTERM)
        until(lambda: not self._listens(server), log, 30)
        looker = Looker(f"sqlite:///{folder}/queue.sqlite3", folder)
        try:
            assert [result.tags.get(LAST_CODE) for result in looker.results()] == [None, "499"]
            assert state_of(looker, "first") == "failed"
            assert until(lambda: looker.take(1), log) == [("second", 1)]
        finally:
            looker.close()

    @staticmethod
    def _listens(server: RunningServer) -> bool:
        try:
            return httpx.get(f"{server.url}/health/live", timeout=60).status_code == 200
        except httpx.HTTPError:
            return False
