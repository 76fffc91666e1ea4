"""The server's way to stop: admit nothing, finish what was admitted, close."""

from __future__ import annotations

import signal
import threading
import time

import httpx
import pytest
import uvicorn

from sdwebui_api.api.factory import create_app
from sdwebui_api.app import Server
from tests.support.fakes import fake_services

BODY = {"steps": 5, "width": 8, "height": 8}


@pytest.fixture
def served(tmp_path):
    services = fake_services(tmp_path)
    opened = threading.Event()
    config = uvicorn.Config(create_app(services), port=0, log_config=None, timeout_graceful_shutdown=5)
    server = Server(config, services.runner, opened.set)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert opened.wait(60)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield server, services, url, thread
    services.generator.gate.set()
    server.should_exit = True
    thread.join(60)


def test_sigterm_finishes_the_running_job_and_closes(served):
    server, services, url, thread = served
    services.generator.gate.clear()
    answers: list[int] = []
    request = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{url}/sdapi/v1/txt2img", json=BODY, timeout=60).status_code)
    )
    request.start()
    while services.runner.running == 0:
        time.sleep(0.01)
    server.handle_exit(signal.SIGTERM, None)
    while not services.runner.draining:
        time.sleep(0.01)
    assert httpx.post(f"{url}/sdapi/v1/txt2img", json=BODY, timeout=60).status_code == 503
    assert httpx.get(f"{url}/health/live", timeout=60).status_code == 200
    services.generator.gate.set()
    request.join(60)
    thread.join(60)
    assert answers == [200] and not thread.is_alive() and not server.restart


def test_restart_is_asked_for_the_same_way(served):
    server, _, _, thread = served
    server.stop(restart=True)
    thread.join(60)
    assert server.restart and not thread.is_alive()
