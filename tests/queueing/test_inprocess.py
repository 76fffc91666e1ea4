"""Calls of the real application without a socket, over a fake generator."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from PIL import Image

from sdwebui_api.api.factory import create_app
from sdwebui_api.api.services import Services
from sdwebui_api.queueing.call import QueuedCall
from sdwebui_api.queueing.inprocess import Answer, InProcess
from sdwebui_api.queueing.model import REQUEST_ID
from tests.queueing.support import until
from tests.support.fakes import fake_services

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    made = fake_services(tmp_path, "--token", "secret", "--api-log")
    yield made
    made.runner.drain(5)


@pytest.fixture
def app(services: Services) -> FastAPI:
    return create_app(services)


async def post(app: Any, path: str, body: Any, id: str = "r1", **tags: str) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await InProcess(app).post(path, data, QueuedCall(id, {REQUEST_ID: id, **tags}, tags.get("user")))


async def test_a_picture_is_made_without_the_token_under_the_request_id(app, services):
    answer = await post(app, "sdapi/v1/txt2img", {"prompt": "a lighthouse", "steps": 2})
    assert answer.status == 200
    assert json.loads(answer.body)["info"]
    assert services.runner.get("r1").kind == "txt2img"


async def test_the_job_belongs_to_who_put_the_request(app, services):
    call = QueuedCall("r1", {REQUEST_ID: "r1"}, "ann")
    await InProcess(app).post("sdapi/v1/txt2img", b'{"steps": 1}', call)
    assert services.runner.get("r1", "ann").user == "ann"


async def test_any_other_post_route_can_be_called(app):
    picture = BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "png")
    body = {"image": base64.b64encode(picture.getvalue()).decode()}
    assert (await post(app, "sdapi/v1/png-info", body)).status == 200
    assert (await post(app, "sdapi/v1/refresh-checkpoints", b"")).status == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("sdapi/v1/txt2img", b"{broken", 422),
        ("sdapi/v1/txt2img", {"steps": "many"}, 422),
        ("sdapi/v1/nothing", {}, 404),
        ("sdapi/v1/samplers", {}, 405),
        ("../../etc/passwd", {}, 404),
        ("€ /%zz", {}, 404),
    ],
)
async def test_what_cannot_be_done_is_answered_as_over_http(app, path, body, status):
    answer = await post(app, path, body)
    assert answer.status == status
    assert json.loads(answer.body)["detail"]


async def test_a_bug_in_a_route_is_a_500(services, app):
    services.runner.submit = None  # type: ignore[method-assign]
    assert (await post(app, "sdapi/v1/txt2img", {"steps": 1})).status == 500


async def test_a_full_line_says_when_to_come_again(services, app):
    services.generator.gate.clear()
    services.runner.max_queue = 1
    tasks = [asyncio.create_task(post(app, "sdapi/v1/txt2img", {"steps": 1}, id=f"r{n}")) for n in range(2)]
    await until(lambda: len(services.runner.live_jobs()) == 2)
    answer = await post(app, "sdapi/v1/txt2img", {"steps": 1}, id="r9")
    assert (answer.status, answer.retry_after) == (429, 1.0)
    services.generator.gate.set()
    assert [answer.status for answer in await asyncio.gather(*tasks)] == [200, 200]


async def test_cancelling_the_call_cancels_the_job(services, app):
    services.generator.gate.clear()
    task = asyncio.create_task(post(app, "sdapi/v1/txt2img", {"steps": 1}))
    job = await until(lambda: services.runner.get("r1"))
    task.cancel()
    await until(lambda: job.state == "cancelled")


async def test_a_large_answer_is_not_kept():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"x" * 400, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    assert await InProcess(app, max_answer=1000).post("p", b"", QueuedCall("r")) == Answer(200, b"", too_large=True)
    assert len((await InProcess(app, max_answer=2000).post("p", b"", QueuedCall("r"))).body) == 1200


async def test_tags_are_the_query_and_the_id_is_the_header():
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope, body=(await receive())["body"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    answer = await post(app, "a/b", b"data", task_id="t&1", _callback_url_="https://x/")
    assert (answer.status, answer.body) == (204, b"")
    assert (seen["path"], seen["query_string"], seen["body"]) == ("/a/b", b"task_id=t%261", b"data")
    assert (b"x-request-id", b"r1") in seen["headers"]


async def test_callback_url_is_for_the_queue_only(app):
    """The worker takes it out; whoever leaves it in has called synchronously."""
    answer = await post(app, "sdapi/v1/txt2img", {"callback_url": "https://me.example/"})
    assert answer.status == 422
    assert "queued" in json.dumps(json.loads(answer.body)["detail"])
