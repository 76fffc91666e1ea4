"""Log-in, CORS, body size, health."""

from __future__ import annotations

import base64
import os
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from sdwebui_api.api.factory import create_app
from sdwebui_api.errors import SdWebUIError
from tests.support.fakes import fake_services

SAMPLERS = "/sdapi/v1/samplers"


def client_with(tmp_path, *flags: str, **options) -> TestClient:
    return TestClient(create_app(fake_services(tmp_path, *flags), **options), raise_server_exceptions=False)


def basic(text: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


def test_basic(tmp_path):
    client = client_with(tmp_path, "--api-auth", "user:pass,second:p:w")
    for headers, detail in [
        ({}, "Not authenticated"),
        (basic("user:wrong"), "Incorrect username or password"),
        ({"Authorization": "Bearer abc"}, "Not authenticated"),
        ({"Authorization": "Basic !!!"}, "Invalid authentication credentials"),
    ]:
        answer = client.get(SAMPLERS, headers=headers)
        assert answer.status_code == 401 and answer.json()["detail"] == detail
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert client.get(SAMPLERS, headers=basic("user:pass")).status_code == 200
    assert client.get(SAMPLERS, headers=basic("second:p:w")).status_code == 200


@pytest.mark.parametrize("flag", ["--api-auth", "--gradio-auth"])
def test_a_name_without_a_password_ends_the_start(flag, tmp_path):
    with pytest.raises(SdWebUIError, match=f"{flag}: expected USER:PASSWORD"):
        client_with(tmp_path, flag, "user:pass,alone")


@pytest.mark.parametrize("header", ["Bearer s3cret", "bearer s3cret", "s3cret"])
def test_token(header, tmp_path):
    client = client_with(tmp_path, "--token", "s3cret")
    assert client.get(SAMPLERS, headers={"Authorization": header}).status_code == 200
    assert client.get(SAMPLERS, headers={"Authorization": header + "x"}).status_code == 401


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/internal/ping", "/nothing", "/sdapi/v1/jobs"])
def test_every_route_asks_but_health(path, tmp_path):
    client = client_with(tmp_path, "--token", "x")
    assert client.get(path).status_code == 401
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 200


@pytest.mark.parametrize("header", ["", "Basic", "nonsense ☃".encode().decode("latin-1")])
def test_odd_headers_are_tolerated_without_auth(header, client):
    assert client.get(SAMPLERS, headers={"Authorization": header.encode("latin-1")}).status_code == 200


def test_users_do_not_see_each_others_jobs(tmp_path):
    client = client_with(tmp_path, "--api-auth", "a:1,b:2")
    body = {"steps": 1, "width": 8, "height": 8, "force_task_id": "mine"}
    assert client.post("/sdapi/v1/txt2img", json=body, headers=basic("a:1")).status_code == 200
    assert client.get("/sdapi/v1/jobs/mine", headers=basic("a:1")).status_code == 200
    assert client.get("/sdapi/v1/jobs/mine", headers=basic("b:2")).status_code == 404
    assert client.get("/sdapi/v1/jobs", headers=basic("b:2")).json() == []


def test_cors(tmp_path):
    client = client_with(tmp_path, "--cors-allow-origins", "http://good.example/, ,", "--token", "x")
    ask = {"Access-Control-Request-Method": "POST"}
    good = client.options("/sdapi/v1/txt2img", headers={"Origin": "http://good.example", **ask})
    assert good.status_code == 200 and good.headers["access-control-allow-origin"] == "http://good.example"
    assert client.options("/sdapi/v1/txt2img", headers={"Origin": "http://bad.example", **ask}).status_code == 400
    ask["Access-Control-Request-Private-Network"] = "true"
    near = client.options("/sdapi/v1/txt2img", headers={"Origin": "http://good.example", **ask})
    assert near.status_code == 200 and near.headers["access-control-allow-private-network"] == "true"
    assert client.options("/sdapi/v1/txt2img", headers={"Origin": "http://bad.example", **ask}).status_code == 400


def test_large_bodies_are_refused_before_parsing(tmp_path):
    client = client_with(tmp_path, max_body_bytes=1000)
    assert client.post("/sdapi/v1/txt2img", json={"prompt": "x" * 2000}).status_code == 413
    stream = client.post("/sdapi/v1/txt2img", content=(b"x" * 100 for _ in range(20)))
    assert stream.status_code == 413


def test_ready_tells_the_truth(client, services):
    services.queue = SimpleNamespace(ready=False)
    assert client.get("/health/ready").json() == {"status": "waiting for the store"}
    services.queue.ready = True
    assert client.get("/health/ready").status_code == 200
    services.engine.is_ready = False
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200


def test_subpath(tmp_path):
    client = client_with(tmp_path, "--subpath", "/sd/")
    assert client.get(SAMPLERS).status_code == 200
    assert client.get("/sd" + SAMPLERS).status_code == 200


def test_stop_routes_only_with_their_flag(client, tmp_path):
    assert client.post("/sdapi/v1/server-stop").status_code == 404
    stopped: list[str] = []
    services = fake_services(tmp_path / "other", "--api-server-stop")
    services.stop_server = stopped.append
    other = TestClient(create_app(services))
    assert [other.post(f"/sdapi/v1/server-{kind}").status_code for kind in ("stop", "restart", "kill")] == [200] * 3
    assert stopped == ["stop", "restart", "kill"]


def test_the_stop_route_of_the_page_only_with_its_flag(client, tmp_path):
    assert client.post("/_stop").status_code == 404
    stopped: list[str] = []
    services = fake_services(tmp_path / "other", "--add-stop-route")
    services.stop_server = stopped.append
    answer = TestClient(create_app(services)).post("/_stop")
    assert (answer.status_code, answer.text, stopped) == (200, "Stopping.", ["stop"])


def test_request_id(client):
    assert client.get("/health/live", headers={"X-Request-Id": "abc"}).headers["X-Request-Id"] == "abc"
    assert len(client.get("/health/live").headers["X-Request-Id"]) == 16


# -- --token-file ------------------------------------------------------------------------------------------------------


def asks(client: TestClient, token: str) -> int:
    return client.get(SAMPLERS, headers={"Authorization": token}).status_code


def test_tokens_of_a_file(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("# of the studio\n\n  plain-token \nanna:hers\nanna : her-second\nben:his:with:colons\n")
    client = client_with(tmp_path, "--token-file", str(file), "--token", "fixed")
    for token in ("plain-token", "hers", "her-second", "his:with:colons", "fixed", "Bearer hers", "bearer  hers"):
        assert asks(client, token) == 200, token
    for token in ("", "anna", "anna:hers", "# of the studio", "his", "HERS", "Basic hers", "hers x", "EAS anna:x"):
        assert asks(client, token) == 401, token


def test_tokens_belong_to_users(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("anna:a1\nanna:a2\nben:b1\n")
    client = client_with(tmp_path, "--token-file", str(file))
    body = {"steps": 1, "width": 8, "height": 8, "force_task_id": "hers"}
    assert client.post("/sdapi/v1/txt2img", json=body, headers={"Authorization": "a1"}).status_code == 200
    for token, status in (("a1", 200), ("a2", 200), ("b1", 404)):
        assert client.get("/sdapi/v1/jobs/hers", headers={"Authorization": token}).status_code == status


def test_a_changed_file_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr("sdwebui_api.api.tokens.LOOK_SECONDS", 0.0)
    file = tmp_path / "tokens"
    file.write_text("old\n")
    client = client_with(tmp_path, "--token-file", str(file))
    assert (asks(client, "old"), asks(client, "new")) == (200, 401)
    file.write_text("new\n")
    os.utime(file, ns=(1, 1))
    assert (asks(client, "old"), asks(client, "new")) == (401, 200)
    for text in ("", "two words\n", "user:\n"):
        file.write_text(text)
        assert (asks(client, "new"), asks(client, "")) == (200, 401), "a broken file changes nothing"
    file.unlink()
    assert (asks(client, "new"), asks(client, "")) == (200, 401)


@pytest.mark.parametrize("text", [None, "", "# nothing\n", "two words\n", "user:\n", ":token\n", "user:a b\n"])
def test_a_token_file_that_cannot_be_used_stops_the_start(text, tmp_path):
    file = tmp_path / "tokens"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SdWebUIError, match="--token-file"):
        client_with(tmp_path, "--token-file", str(file))
