"""The queue of a server with `--cluster`: everybody puts requests and reads the own results."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import httpx
import pytest

from tests.support.fronts import Front, http, run_whole_server
from tests.support.redis_server import shared_redis

BODY = json.dumps({"prompt": "a", "steps": 2, "width": 8, "height": 8})
ANN, BOB = ({"Authorization": token} for token in ("anns-token", "bobs-token"))


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    data = tmp_path_factory.mktemp("queue")
    tokens = data / "tokens"
    tokens.write_text("ann:anns-token\nbob:bobs-token\nnameless-token\n")
    url = f"sqlite:///{data / 'queue.sqlite3'}" if request.param == "sqlite" else emptied_redis()
    with run_whole_server(url, data, "--cluster", "--token-file", str(tokens)) as (found, _):
        yield found


def emptied_redis() -> str:
    server = shared_redis()
    assert server.ask("FLUSHALL") == b"+OK"
    return server.url


def result(front: Front, user: dict[str, str], **query: str) -> dict | None:
    answer = http.get(front.sink, params={"_raw_": "false", **query}, headers=user)
    assert answer.status_code in (200, 204)
    return json.loads(base64.b64decode(answer.json()[0]["data"])) if answer.status_code == 200 else None


def test_a_result_is_read_by_who_put_the_request(front: Front):
    put = http.post(f"{front.input}/sdapi/v1/txt2img", content=BODY, headers=ANN)
    id = put.headers["X-Eas-Queueservice-Request-Id"]
    found = result(front, ANN, requestId=id, _timeout_="30s", _auto_delete_="false")
    assert result(front, BOB) is None and result(front, BOB, requestId=id) is None
    assert http.get(front.sink, params={"_count_": "true"}, headers=ANN).text == "1"
    assert found is not None and "/users/ann/" in found["parameters"]["image_url"]
    assert http.get(front.sink, params={"_count_": "true"}, headers=BOB).text == "0"
    for user, status in ((ANN, 200), (BOB, 404)):
        assert http.get(f"{front.url}/sdapi/v1/jobs/{id}", headers=user).status_code == status
    assert result(front, ANN) is not None


def test_an_id_that_another_user_has_chosen_is_refused(front: Front):
    def put(user: dict[str, str]) -> httpx.Response:
        address = f"{front.input}/sdapi/v1/txt2img"
        return http.post(address, params={"requestId": "first"}, content=BODY, headers=user)

    index = put(ANN).text
    assert put(ANN).text == index
    assert put(BOB).status_code == 409 and "requestId" in put(BOB).text
    assert result(front, ANN, requestId="first", _timeout_="30s") is not None
    assert put(BOB).status_code == 409 and put(ANN).text == index


@pytest.mark.parametrize(
    ("method", "place", "query"),
    [
        ("GET", "input", {}),
        ("GET", "input", {"_index_": "1"}),
        ("GET", "input", {"_attrs_": "true"}),
        ("GET", "input", {"_search_": "true", "_index_": "1"}),
        ("GET", "input", {"_watch_": "true"}),
        ("GET", "input", {"_count_": "true"}),
        ("GET", "sink", {"_attrs_": "true"}),
        ("GET", "sink", {"_watch_": "true"}),
        ("POST", "sink", {}),
        ("POST", "input", {"_eos_": "true"}),
        ("PUT", "input", {"_indexes_": "1"}),
        ("PUT", "sink", {"_indexes_": "1", "_negative_": "true"}),
        ("DELETE", "input", {"_indexes_": "1"}),
        ("DELETE", "sink", {"_trunc_": "true", "_index_": "9"}),
    ],
)
def test_what_belongs_to_all_is_nobodys(front: Front, method: str, place: str, query: dict[str, str]):
    address = getattr(front, place)
    assert http.request(method, address, params=query, headers=BOB).status_code == 403
    rear = {**BOB, "X-EAS-QueueService-Access-Rear": "true"}
    assert http.request(method, address, params=query, headers=rear).status_code == 403


def test_a_token_without_a_name_is_nobodys(front: Front):
    answer = http.post(f"{front.input}/sdapi/v1/txt2img", content=BODY, headers={"Authorization": "nameless-token"})
    assert answer.status_code == 401 and "USER:TOKEN" in answer.json()["detail"]
