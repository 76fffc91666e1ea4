"""--api-log, --api-log-prompts, --time-log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from sdwebui_api.api.factory import create_app
from sdwebui_api.queueing.call import QueuedCall
from sdwebui_api.queueing.inprocess import InProcess
from tests.support.fakes import fake_services

BODY = {"prompt": "a red fox", "negative_prompt": "blurry", "steps": 3, "width": 8, "height": 8, "seed": 7}
LOGGERS = ("sdwebui_api.api_log", "sdwebui_api.access", "sdwebui_api.time_log")


@pytest.fixture
def make_client(tmp_path, caplog):
    for name in LOGGERS:
        caplog.set_level(logging.INFO, name)

    def make(*flags: str) -> TestClient:
        return TestClient(create_app(fake_services(tmp_path, *flags)), raise_server_exceptions=False)

    return make


def lines(caplog: Any, logger: str = "sdwebui_api.api_log") -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == logger]


def rows(caplog: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(caplog)]


def test_one_line_of_json_per_call(make_client, caplog):
    client = make_client("--api-log")
    sent = client.post("/sdapi/v1/txt2img?task_id=t_1", json=BODY, headers={"X-Request-Id": "req-1"})
    client.get("/sdapi/v1/samplers")
    first, second = rows(caplog)
    assert first["id"] == "req-1" and first["method"] == "POST" and first["path"] == "/sdapi/v1/txt2img"
    assert first["status"] == 200 and first["query"] == {"task_id": "t_1"} and first["door"] == "http"
    assert first["job"] == sent.headers["X-Job-Id"] and first["bytes_out"] == len(sent.content)
    assert first["bytes_in"] == len(sent.request.content) and first["ms"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert first["request"]["steps"] == 3 and first["request"]["seed"] == 7 and first["request"]["pictures"] == 1
    assert "request" not in second and second["path"] == "/sdapi/v1/samplers"
    assert not lines(caplog, "sdwebui_api.access"), "one line, not two"


def test_prompts_only_when_asked_for(make_client, caplog):
    make_client("--api-log").post("/sdapi/v1/txt2img", json=BODY)
    assert "fox" not in caplog.text and "blurry" not in caplog.text
    make_client("--api-log-prompts").post("/sdapi/v1/txt2img", json=BODY)
    assert rows(caplog)[-1]["request"]["prompt"] == "a red fox"
    assert rows(caplog)[-1]["request"]["negative_prompt"] == "blurry"


def test_errors_are_named_without_quoting(make_client, caplog):
    client = make_client("--api-log")
    client.post("/sdapi/v1/txt2img", json={**BODY, "sampler_name": "a red fox"})
    client.post("/sdapi/v1/txt2img", json={**BODY, "steps": "many"})
    client.get("/nothing")
    assert [row["error"] for row in rows(caplog)] == [
        "BadRequest (sampler_name)", "RequestValidationError (body.steps)", "HTTPException"
    ]  # fmt: skip
    assert "fox" not in caplog.text


def test_who_called(make_client, caplog):
    client = make_client("--api-log", "--token", "t")
    client.get("/sdapi/v1/samplers", headers={"Authorization": "t"})
    client.get("/sdapi/v1/samplers")
    assert [row.get("user") for row in rows(caplog)] == ["token", None]
    assert "Bearer" not in caplog.text and rows(caplog)[1]["status"] == 401


@pytest.mark.parametrize("path", ["/a%0Ab", "/%0d%0a{}", "/%F0%9F%92%A9", "/%ff", '/"quoted"\\'])
def test_a_line_stays_a_line(path, make_client, caplog):
    make_client("--api-log").get(path)
    [line] = lines(caplog)
    assert "\n" not in line and "\r" not in line and line.isascii()
    assert json.loads(line)["status"] == 404


def test_reserved_parameters_stay_out(make_client, caplog):
    make_client("--api-log").get("/sdapi/v1/samplers?_callback_url_=https://x/?key=secret&task_id=a&task_id=b")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("sdwebui_api")]
    assert "secret" not in "\n".join(ours) and rows(caplog)[0]["query"] == {"task_id": "b"}


def test_polled_paths_are_in_the_api_log_too(make_client, caplog):
    client = make_client("--api-log")
    for path in ("/health/live", "/metrics", "/sdapi/v1/progress"):
        client.get(path)
    assert [row["path"] for row in rows(caplog)] == ["/health/live", "/metrics", "/sdapi/v1/progress"]


def test_without_the_flag_there_is_a_line_for_people(make_client, caplog):
    client = make_client()
    client.post("/sdapi/v1/txt2img", json=BODY)
    client.get("/health/live")
    client.get("/metrics")
    [line] = lines(caplog, "sdwebui_api.access")
    assert "method=POST path=/sdapi/v1/txt2img status=200" in line and "fox" not in line
    assert not lines(caplog)


def test_queued_calls_are_told_apart(tmp_path, caplog):
    caplog.set_level(logging.INFO, "sdwebui_api.api_log")
    app = create_app(fake_services(tmp_path, "--api-log"))
    call = QueuedCall(
        "req-9", {"task_id": "t", "requestId": "req-9", "_callback_url_": "https://x/secret"}, user="anna"
    )
    answer = asyncio.run(InProcess(app).post("sdapi/v1/txt2img", json.dumps(BODY).encode(), call))
    assert answer.status == 200
    [row] = rows(caplog)
    assert row["door"] == "queue" and row["id"] == row["job"] == "req-9" and row["user"] == "anna"
    assert row["tags"] == {"task_id": "t", "requestId": "req-9"} and "secret" not in caplog.text


def test_time_log(make_client, caplog):
    client = make_client("--time-log")
    answer = client.post("/sdapi/v1/txt2img", json={**BODY, "force_task_id": "my\njob", "batch_size": 2})
    assert float(answer.headers["X-Process-Time"]) > 0
    [line] = lines(caplog, "sdwebui_api.time_log")
    assert re.fullmatch(r"job=my\\njob kind=txt2img state=done wait=\d+\.\d{3} total=\d+\.\d{3} pictures=2", line)


def test_without_time_log(make_client, caplog):
    answer = make_client().post("/sdapi/v1/txt2img", json=BODY)
    assert "X-Process-Time" not in answer.headers and not lines(caplog, "sdwebui_api.time_log")


def test_the_line_stands_alone_on_stderr(capsys):
    """Nothing before the JSON, so that programs can read it."""
    from sdwebui_api.cli import _write_bare

    name = "sdwebui_api.test_bare_lines"
    _write_bare(name)
    logging.getLogger(name).info("%s", '{"a": 1}')
    assert capsys.readouterr().err == '{"a": 1}\n'
