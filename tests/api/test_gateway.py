"""`/api/predict/…` without a queue: the synchronous form of an EAS gateway, and the signature of its clients."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from starlette.testclient import TestClient

from sdwebui_api.api.factory import create_app
from tests.support.fakes import fake_services

BODY = b'{"prompt": "x", "steps": 2, "width": 8, "height": 8}'
PATH = "/api/predict/sd_async/sdapi/v1/txt2img"
DATE = "Thu, 01 Jan 1970 00:00:00 GMT"


def client_with(tmp_path, *flags: str) -> TestClient:
    return TestClient(create_app(fake_services(tmp_path, *flags)), raise_server_exceptions=False)


def signed(token: str, path: str = PATH, body: bytes = BODY, content_type: str = "application/octet-stream"):
    """As the SDKs sign."""
    md5 = hashlib.md5(body).hexdigest()
    text = "\n".join(("POST", md5, content_type, DATE, path))
    signature = base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()
    return {
        "Authorization": f"EAS {signature}", "Content-MD5": md5, "Date": DATE, "Content-Type": content_type,
    }  # fmt: skip


@pytest.mark.parametrize("content_type", [None, "application/octet-stream", "application/json"])
def test_the_path_behind_the_service_is_the_route(content_type, client):
    headers = {"Content-Type": content_type} if content_type else {}
    answer = client.post(PATH, content=BODY, headers=headers)
    assert answer.status_code == 200 and len(answer.json()["images"]) == 1
    assert client.get("/api/predict/sd_async/sdapi/v1/samplers").json() == client.get("/sdapi/v1/samplers").json()
    assert client.post("/api/predict/sd_async", content=BODY).status_code == 200, "txt2img without a path"
    assert client.post("/api/predict/sd_async/sdapi/v1/png-info", json={"image": ""}).status_code == 422


def test_other_services_are_not_here(client):
    for path in ("/api/predict/other/sdapi/v1/samplers", "/api/predict/sd_async2/sdapi/v1/samplers", "/api/predict/"):
        answer = client.get(path)
        assert answer.status_code == 404 and answer.content


def test_no_retry_after_behind_the_gateway(services):
    services.runner.drain(0)
    client = TestClient(create_app(services), raise_server_exceptions=False)
    direct, behind = client.post("/sdapi/v1/txt2img", content=BODY), client.post(PATH, content=BODY)
    assert direct.status_code == behind.status_code == 503
    assert "retry-after" in direct.headers and "retry-after" not in behind.headers


def test_a_signature_proves_the_token(tmp_path):
    client = client_with(tmp_path, "--token", "s3cret")
    assert client.post(PATH, content=BODY, headers=signed("s3cret")).status_code == 200
    json = signed("s3cret", content_type="application/json")
    assert client.post(PATH, content=BODY, headers=json).status_code == 200
    odd = "/api/predict/sd_async/sdapi/v1/txt2img%20"
    assert client.post(odd, content=BODY, headers=signed("s3cret", odd)).status_code in (404, 405), "let in"


@pytest.mark.parametrize(
    "change",
    [
        {"Authorization": "EAS "}, {"Authorization": "EAS AAAA"}, {"Content-MD5": "0" * 32}, {"Date": "today"},
        {"Content-Type": "text/plain"}, {"Content-MD5": ""},
    ],
)  # fmt: skip
def test_what_was_signed_cannot_be_changed(change, tmp_path):
    client = client_with(tmp_path, "--token", "s3cret")
    assert client.post(PATH, content=BODY, headers={**signed("s3cret"), **change}).status_code == 401


def test_neither_the_body_nor_the_path_nor_the_verb_can_be_exchanged(tmp_path):
    client = client_with(tmp_path, "--token", "s3cret")
    headers = signed("s3cret")
    answer = client.post(PATH, content=BODY.replace(b"x", b"y"), headers=headers)
    assert answer.status_code == 401 and "MD5" in answer.json()["detail"]
    assert client.post("/sdapi/v1/txt2img", content=BODY, headers=headers).status_code == 401
    assert client.put(PATH, content=BODY, headers=headers).status_code == 401
    assert client.post(PATH, content=BODY, headers=signed("wrong")).status_code == 401


def test_below_a_prefix(tmp_path):
    client = client_with(tmp_path, "--subpath", "sd", "--token", "s3cret")
    for path in (PATH, f"/sd{PATH}"):
        for signed_path in {path, PATH}:
            assert client.post(path, content=BODY, headers=signed("s3cret", signed_path)).status_code == 200
