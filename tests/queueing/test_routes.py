"""The queue's verbs over HTTP, as the SDKs and plain clients use them."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

from sdwebui_api.queueing.reading import BELL_SECONDS
from tests.queueing.frame_reader import read_attributes, read_list
from tests.support.fronts import PATIENCE, PROTOBUF, Front, http, run_front, wait_until
from tests.support.redis_server import RedisServer

REQUEST_ID = "X-Eas-Queueservice-Request-Id"
UID, GID = "X-EAS-QueueService-Redis-Uid", "X-EAS-QueueService-Redis-Gid"
REAR = {"X-EAS-QueueService-Access-Rear": "true"}


def rows(of: str, headers: dict[str, str] | None = None, **query) -> list[dict]:
    """What a plain client gets, [] for nothing."""
    answer = http.get(of, params={"_raw_": "false", **query}, headers=headers)
    assert answer.status_code in (200, 204), answer.text
    assert answer.status_code == 200 or answer.content == b""
    return answer.json() if answer.status_code == 200 else []


def data_of(found: list[dict]) -> list[str]:
    return [base64.b64decode(row["data"]).decode() for row in found]


def form(raw: str | None) -> dict[str, str]:
    return {"_raw_": raw} if raw else {}


def accepting(accept: str | None) -> dict[str, str]:
    return {"Accept": accept} if accept else {}


class TestPut:
    def test_the_answer_is_the_index_and_nothing_else(self, front: Front):
        first = http.post(front.input, content=b"a")
        assert (first.status_code, first.content) == (200, b"1")
        assert len(first.headers[REQUEST_ID]) == 36
        assert http.post(front.input, content=b"b").content == b"2"
        assert http.post(front.sink, content=b"c").content == b"1", "the sink counts for itself"

    def test_any_bytes_with_any_type_or_none(self, front: Front):
        for body in (b"", b"\x00\xff{", b"[1,", b"," * 300_000):
            index = front.put(body)
            found = http.get(front.input, params={"_index_": index, "_auto_delete_": "true"})
            assert found.content == body

    def test_a_request_id_of_the_client_makes_it_idempotent(self, front: Front):
        answers = [http.post(front.input, params={"requestId": "mine"}, content=b"a") for _ in range(3)]
        assert {answer.text for answer in answers} == {"1"}
        assert {answer.headers[REQUEST_ID] for answer in answers} == {"mine"}
        assert front.length() == 1

    def test_tags_come_back_decoded_and_reserved_names_are_none(self, front: Front):
        http.post(f"{front.input}/sdapi/v1/txt2img?task_id=%E7%81%AF%2F1&empty=&_x_=y", content=b"a")
        tags = rows(front.input)[0]["tags"]
        assert tags.pop("requestId") and tags == {"task_id": "灯/1", "empty": ""}

    def test_the_callback_and_the_user_are_kept_but_not_shown(self, front: Front):
        given = {"_callback_url_": "https://93.184.215.14/hook", "requestId": "r"}
        assert http.post(front.input, params=given).status_code == 200
        assert rows(front.input)[0]["tags"] == {"requestId": "r"}
        assert rows(front.input, _callback_url_="other") != [], "a reserved name filters nothing"

    def test_a_callback_must_be_an_address_outside(self, plain_front: Front):
        for url in ("http://127.0.0.1/x", "ftp://example.com/", "nonsense"):
            answer = http.post(plain_front.input, params={"_callback_url_": url})
            assert answer.status_code in (403, 422) and "_callback_url_" in answer.text
        assert plain_front.length() == 0

    def test_high_priority_goes_first(self, front: Front):
        front.put("low")
        front.put("high", _priority_=1)
        http.post(front.input, content=b"header", headers={"X-EAS-QueueService-Priority": "1"})
        front.put("negative", _priority_=-4)
        assert data_of(rows(front.input, _length_=10)) == ["high", "header", "low", "negative"]

    def test_too_large(self, sqlite_url, tmp_path):
        with run_front(sqlite_url, tmp_path, "--queue-max-payload", "100") as front:
            front.put(b"x" * 100)
            for headers in ({}, {"Transfer-Encoding": "chunked"}):
                answer = http.post(front.input, content=iter([b"x" * 101]), headers=headers)
                assert answer.status_code == 413 and "retry-after" not in answer.headers
            assert http.post(front.input, content=b"x" * 101).status_code == 413
            assert front.length() == 1

    def test_a_full_queue(self, queue_url, tmp_path):
        with run_front(queue_url, tmp_path / "data", "--queue-max-length", "2") as front:
            front.put(), front.put(requestId="second")
            refused = [http.post(front.input, content=b"x") for _ in range(3)]
            assert [answer.status_code for answer in refused] == [429] * 3
            assert all("retry-after" not in answer.headers for answer in refused)
            front.put(to=front.sink)
            http.get(front.input, params={"_auto_delete_": "true"})
            wait_until(lambda: http.post(front.input, content=b"x").status_code == 200, 2)

    def test_sixteen_clients_lose_and_double_nothing(self, front: Front):
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda number: front.put(str(number)), range(160)))
        assert sorted(found) == list(range(1, 161))
        assert sorted(map(int, data_of(rows(front.input, _length_=1000)))) == list(range(160))


class TestGet:
    def test_nothing_is_204_without_a_body_in_every_form(self, front: Front):
        for raw, accept in product(("true", "false", None), (PROTOBUF, "*/*", None)):
            answer = http.get(front.sink, params=form(raw), headers=accepting(accept))
            assert (answer.status_code, answer.content) == (204, b"")

    def test_the_forms(self, front: Front):
        tags = {"task_id": "t", "requestId": "r"}
        front.put(b"data", to=front.sink, **tags)
        for raw, accept in product(("true", "false", None), (PROTOBUF, "*/*", None)):
            query = {**form(raw), "_auto_delete_": "false"}
            found = http.get(front.sink, params=query, headers=accepting(accept))
            assert found.status_code == 200
            if accept == PROTOBUF:
                (frame,) = read_list(found.content)
                assert (frame.index, frame.data, frame.tags, frame.message) == (1, b"data", tags, "")
            elif raw == "false":
                assert found.json() == [{"index": 1, "tags": tags, "data": "ZGF0YQ=="}]
            else:
                assert found.content == b"data"

    def test_by_request_id_tags_and_index(self, front: Front):
        for number in range(1, 6):
            front.put(str(number), requestId=f"r{number}", color="red" if number % 2 else "blue", kind="x")
        assert data_of(rows(front.input, requestId="r4")) == ["4"]
        assert data_of(rows(front.input, color="blue", kind="x", _length_=9)) == ["2", "4"]
        assert rows(front.input, color="blue", kind="y") == []
        assert data_of(rows(front.input, _index_=3, _length_=9)) == ["3", "4", "5"]
        assert data_of(rows(front.input, _index_=-1, _length_=9)) == ["5"]
        assert rows(front.input, _index_=6) == []
        http.delete(front.input, params={"_indexes_": "3"})
        assert data_of(rows(front.input, _index_=3)) == ["4"], "the next one there is"

    def test_reading_removes_results_but_no_requests_unless_asked(self, front: Front):
        front.put("request"), front.put("result", to=front.sink)
        for query in ({}, {"_raw_": "false"}, {"_timeout_": "1s"}):
            assert http.get(front.input, params=query).status_code == 200
        assert front.length() == 1
        assert data_of(rows(front.sink, _auto_delete_="false")) == ["result"]
        assert data_of(rows(front.sink)) == ["result"]
        assert rows(front.sink) == []
        assert data_of(rows(front.input, _auto_delete_="true")) == ["request"]
        assert front.length() == 0

    def test_the_raw_form_removes_only_what_it_shows(self, front: Front):
        front.put("1", to=front.sink), front.put("2", to=front.sink)
        assert http.get(front.sink, params={"_length_": 5}).text == "1"
        assert front.length(front.sink) == 1

    def test_no_item_is_given_twice(self, front: Front):
        for number in range(60):
            front.put(str(number), to=front.sink)

        def take(_: int) -> list[str]:
            found: list[str] = []
            while more := rows(front.sink, _length_=3):
                found += data_of(more)
            return found

        with ThreadPoolExecutor(8) as pool:
            taken = [data for part in pool.map(take, range(8)) for data in part]
        assert sorted(map(int, taken)) == list(range(60))

    def test_it_waits_for_what_comes_and_answers_at_once_then(self, front: Front):
        begun = time.monotonic()
        threading.Timer(0.5, front.put, ("late",), {"to": front.sink}).start()
        assert data_of(rows(front.sink, _timeout_="60s")) == ["late"]
        assert 0.5 <= time.monotonic() - begun < BELL_SECONDS

    @pytest.mark.parametrize(("timeout", "least", "most"), [("1s", 0.6, 1.0), ("200ms", 0.1, 0.2), ("0s", 0, 0.15)])
    def test_it_answers_a_little_before_the_timeout(self, plain_front: Front, timeout, least, most):
        rows(plain_front.sink)  # connection and imports are warm
        waits: list[float] = []
        while not waits or (min(waits) >= most + 0.1 and len(waits) < 20):  # a machine that stalls gets more tries
            begun = time.monotonic()
            assert rows(plain_front.sink, _timeout_=timeout) == []
            waits.append(time.monotonic() - begun)
        assert all(wait >= least for wait in waits) and min(waits) < most + 0.1

    def test_of_several_it_gives_what_is_there_at_the_timeout(self, front: Front):
        front.put("1", to=front.sink), front.put("2", to=front.sink)
        begun = time.monotonic()
        assert data_of(rows(front.sink, _length_=3, _timeout_="1s")) == ["1", "2"]
        assert time.monotonic() - begun > 0.6
        assert front.length(front.sink) == 0

    def test_several_are_given_as_soon_as_they_are_complete(self, front: Front):
        front.put("1", to=front.sink)
        threading.Timer(0.4, front.put, ("2",), {"to": front.sink}).start()
        begun = time.monotonic()
        assert data_of(rows(front.sink, _length_=2, _timeout_="60s")) == ["1", "2"]
        assert time.monotonic() - begun < BELL_SECONDS

    def test_nothing_is_removed_for_a_client_that_hung_up(self, front: Front):
        host, port = front.url.removeprefix("http://").split(":")
        for _ in range(5):
            with socket.create_connection((host, int(port))) as raw:
                raw.sendall(b"GET /api/predict/sd_async/sink?_timeout_=30s HTTP/1.1\r\nHost: x\r\n\r\n")
                time.sleep(0.1)
        front.put("kept", to=front.sink)
        time.sleep(0.3)
        assert data_of(rows(front.sink)) == ["kept"]

    def test_head_removes_nothing(self, front: Front):
        front.put("1", to=front.sink)
        assert http.head(front.sink).status_code == 200
        assert front.length(front.sink) == 1


class TestCommitAndRemoval:
    def test_commit_is_idempotent_and_seen_at_once(self, front: Front):
        index = front.put("1", to=front.sink)
        for _ in range(3):
            answer = http.put(front.sink, params={"_indexes_": str(index)})
            assert (answer.status_code, answer.text) == (200, "OK")
            assert front.length(front.sink) == 0
        assert http.put(f"{front.sink}?_indexes_=7%2C8,99").status_code == 200

    def test_delete_takes_lists_and_unknown_indexes(self, front: Front):
        for number in range(1, 6):
            front.put(str(number))
        assert http.delete(f"{front.input}?_indexes_=2%2C4,77").text == "OK"
        assert data_of(rows(front.input, _length_=9)) == ["1", "3", "5"]

    def test_truncate_removes_what_is_below_and_wins_over_delete(self, front: Front):
        for number in range(1, 6):
            front.put(str(number))
        query = {"_index_": 4, "_trunc_": "true", "_indexes_": "5"}
        assert http.delete(front.input, params=query).text == "OK"
        assert data_of(rows(front.input, _length_=9)) == ["4", "5"]
        assert front.put("again") == 6, "indexes are never used again"

    def test_count(self, front: Front):
        for number in range(4):
            front.put(color="red" if number else "blue", _priority_=number % 2)
        for query, count in (({}, "4"), ({"_priority_": 1}, "2"), ({"color": "red"}, "3"), ({"color": "x"}, "0")):
            answer = http.get(front.input, params={"_count_": "true", **query})
            assert (answer.status_code, answer.text) == (200, count)

    def test_a_stream_that_was_ended(self, front: Front):
        front.put("1")
        assert http.post(front.input, params={"_eos_": "true"}).status_code == 200
        assert http.post(front.input, content=b"2").status_code == 409
        assert data_of(rows(front.input)) == ["1"]
        assert http.post(front.input, params={"_eos_": "true", "_force_": "true"}).status_code == 200
        assert rows(front.input) == []


class TestAttributesAndSearch:
    def test_attributes_are_texts(self, front: Front):
        fresh = http.get(front.input, params={"_attrs_": "true"}).json()
        assert all(isinstance(value, str) for value in fresh.values())
        assert "stream.firstEntry" not in fresh and "stream.lastEntry" not in fresh
        assert fresh["meta.header.user"] == UID and fresh["meta.header.group"] == GID
        assert fresh["meta.maxPayloadBytes"] == str(2**20) and fresh["stream.length"] == "0"
        front.put(), front.put()
        used = http.get(front.input, params={"_attrs_": "true"}, headers={"Accept": PROTOBUF})
        assert used.status_code == 200
        read = read_attributes(used.content)
        assert (read["stream.length"], read["stream.firstEntry"], read["stream.lastEntry"]) == ("2", "1", "2")
        http.delete(front.input, params={"_index_": 3, "_trunc_": "true"})
        assert front.length() == 0

    def test_consumers_are_listed(self, front: Front):
        front.put()
        with front.watch(uid="w1", gid="g", _window_=5, color="red") as other, front.watch(uid="w2", gid="g") as one:
            one.recv(timeout=PATIENCE)
            found = http.get(front.input, params={"_attrs_": "true"}).json()
            lines = [value for name, value in found.items() if name.startswith("consumers.list.")]
            assert found["consumers.stats.total"] == "2" and len(lines) == 2
            mine = next(line for line in lines if line.startswith("Id: g.w2, "))
            assert "Index: 1, Pending: 1, Status: Running, Idle: " in mine
            assert mine.endswith("Window: 5, Slots: 4, AutoCommit: false")
            assert any(line.endswith("Tags: tags[color=red]") for line in lines)
            assert "Id: g" in found["groups.list.[0]"]
            del other

    def test_search(self, front: Front):
        for number in range(1, 4):
            front.put(str(number))

        def search(index: int, gid: str = "eas") -> dict:
            return http.get(front.input, params={"_search_": "true", "_index_": index}, headers={GID: gid}).json()

        assert search(3) == {"ConsumerId": "", "IsPending": False, "WaitCount": 2}
        with front.watch(uid="worker-0", gid="sd_async", _window_=1) as worker:
            worker.recv(timeout=PATIENCE)
            assert search(1) == {"ConsumerId": "sd_async.worker-0", "IsPending": True, "WaitCount": 0}
            assert search(3) == {"ConsumerId": "", "IsPending": False, "WaitCount": 1}
            http.put(front.input, params={"_indexes_": "1"}, headers={GID: "sd_async"})
            assert search(1) == {}
        assert search(99) == {} == search(0)


class TestReject:
    def reject(self, front: Front, index: int, code: str | None = None) -> None:
        query = {"_indexes_": index, "_negative_": "true"}
        form = {"_code_": code, "_reason_": "no luck"} if code else None
        answer = http.put(front.input, params=query, data=form)
        assert (answer.status_code, answer.text) == (200, "OK")

    def test_at_a_shutdown_the_item_goes_to_the_next(self, front: Front):
        front.put("1", requestId="r")
        for uid in ("a", "b", "c"):
            with front.watch(uid=uid) as watcher:
                watcher.recv(timeout=PATIENCE)
                self.reject(front, 1, "Shutdown")
                watcher.recv(timeout=PATIENCE)  # nobody else is there: it comes back
        assert rows(front.sink) == []

    @pytest.mark.parametrize("code", ["InternalError", None])
    def test_an_item_tried_too_often_fails_for_its_sender(self, front: Front, code):
        front.put('{"prompt": "x"}', requestId="r", task_id="t")
        with front.watch() as watcher:
            watcher.recv(timeout=PATIENCE)
            self.reject(front, 1, code)
        (result,) = rows(front.sink)
        assert result["tags"] == {"requestId": "r", "task_id": "t", "lastCode": "500"}
        body = json.loads(base64.b64decode(result["data"]))
        assert body["parameters"]["status"] != 0 and body["parameters"]["error_msg"]
        assert front.length() == 0
        (dead,) = rows(front.input, REAR)
        assert data_of([dead]) == ['{"prompt": "x"}'] and dead["tags"]["deadReason"]
        assert front.length(front.input) == 0

    def test_of_a_sink_nothing_is_given_up(self, front: Front):
        front.put("1", to=front.sink)
        with front.watch(front.sink) as watcher:
            for _ in range(3):
                watcher.recv(timeout=PATIENCE)
                http.put(front.sink, params={"_indexes_": 1, "_negative_": "true"})
        assert data_of(rows(front.sink, _index_=1)) == ["1"]


class TestAddresses:
    def test_a_sub_path_is_kept_with_the_item_and_means_the_input_for_every_other_verb(self, front: Front):
        path = f"{front.input}/sdapi/v1/txt2img"
        front.put("1", to=path)
        assert front.length(path) == front.length() == 1
        assert data_of(rows(path)) == ["1"]
        assert http.get(path, params={"_search_": "true", "_index_": 1}).json()["IsPending"] is False
        assert http.delete(path, params={"_indexes_": "1"}).text == "OK"
        assert front.length() == 0

    def test_the_sink_has_no_slash_or_one_and_nothing_redirects(self, front: Front):
        front.put("1", to=f"{front.sink}/")
        front.put("2", to=f"{front.sink}/other")
        assert data_of(rows(f"{front.sink}/", _auto_delete_="false")) == ["1"] == data_of(rows(front.sink))
        assert data_of(rows(front.input)) == ["2"]
        assert http.get(f"{front.input}/").status_code == 200

    def test_dead_letters_are_a_queue_of_their_own(self, front: Front):
        assert http.post(front.input, content=b"dead", headers=REAR).text == "1"
        assert rows(front.input) == [] == rows(front.sink)
        assert data_of(rows(front.input, REAR)) == ["dead"] == data_of(rows(front.sink, REAR))

    def test_upstreams(self, plain_front: Front):
        found = http.get(f"{plain_front.url}/api/v1/servicediscovery/upstreams/sd_async", params={"internal": "true"})
        host, port = plain_front.url.removeprefix("http://").split(":")
        assert found.json() == {"endpoints": {"items": [{"ip": host, "port": int(port), "weight": 100}]}}

    def test_another_name(self, sqlite_url, tmp_path):
        with run_front(sqlite_url, tmp_path, "--service-name", "group.my_svc") as front:
            address = f"{front.url}/api/predict/group.my_svc"
            assert http.post(f"{address}/sink", content=b"x").text == "1"
            assert http.get(address, params={"_attrs_": "true"}).json()["meta.name"] == "group.my_svc"
            assert http.get(front.input).status_code == 404


class TestErrors:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "sd_async?_index_=abc", 400),
            ("GET", "sd_async?_index_=-2", 400),
            ("GET", "sd_async?_length_=0", 400),
            ("GET", "sd_async?_timeout_=soon", 400),
            ("GET", "sd_async?_raw_=maybe", 400),
            ("GET", "sd_async?_search_=true&_index_=x", 400),
            ("GET", "sd_async?_count_=true&_priority_=x", 400),
            ("GET", "sd_async?_watch_=true&_window_=0", 400),
            ("PUT", "sd_async", 400),
            ("PUT", "sd_async?_indexes_=", 400),
            ("PUT", "sd_async?_indexes_=1%2Cx", 400),
            ("PUT", "sd_async?_negative_=true", 400),
            ("DELETE", "sd_async", 400),
            ("DELETE", "sd_async?_trunc_=true", 400),
            ("DELETE", "sd_async?_indexes_=99999999999999999999", 400),
            ("POST", "sd_async?_priority_=urgent", 400),
            ("POST", "sd_async?requestId=%0A", 400),
            ("POST", "sd_async?_eos_=perhaps", 400),
            ("GET", "other", 404),
            ("POST", "other/sink", 404),
            ("PATCH", "sd_async", 405),
        ],
    )
    def test_what_is_wrong_is_said(self, plain_front: Front, method, path, status):
        answer = http.request(method, f"{plain_front.url}/api/predict/{path}")
        assert answer.status_code == status
        assert {"error", "detail", "body", "errors"} == answer.json().keys() and answer.json()["detail"]
        assert plain_front.length() == 0

    def test_the_token(self, sqlite_url, tmp_path):
        with run_front(sqlite_url, tmp_path, "--token", "s3cret") as front:
            for token, status in (("s3cret", 200), ("Bearer s3cret", 200), ("wrong", 401), ("", 401)):
                answer = http.post(front.input, content=b"x", headers={"Authorization": token})
                assert answer.status_code == status
            assert http.get(f"{front.url}/health/ready").status_code == 200

    def test_a_body_that_breaks_off_is_not_put_and_no_fault_of_the_server(self, plain_front: Front, caplog):
        caplog.set_level("INFO")
        host, port = plain_front.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST /api/predict/sd_async HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
        wait_until(lambda: "status=499" in caplog.text)
        assert "Exception" not in caplog.text and plain_front.length() == 0

    def test_hostile_bytes_are_never_a_fault_of_the_server(self, front: Front):
        odd = ["%00", "%ff", "a" * 4000, "';--", "%F0%9F%98%80", "*", "%", "&&=&", "[]", "%7B%22", "%ED%A0%80"]
        for text in odd:
            for query in (
                f"tag={text}",
                f"{text}=x",
                f"requestId={text}",
                f"_index_={text}",
                f"tag={text}&_priority_=1",
            ):
                for method in ("POST", "GET", "PUT", "DELETE"):
                    answer = http.request(method, f"{front.input}?{query}")
                    assert answer.status_code < 500, (method, query, answer.text)
        for name in ("\x7f", "a" * 5000, "é"):
            answer = http.get(front.input, headers={UID: name.encode("latin-1")})
            assert answer.status_code < 500


class TestOutage:
    def test_without_its_store_the_server_says_so_and_comes_back(self, tmp_path):
        with RedisServer(tmp_path / "redis") as redis_server, run_front(redis_server.url, tmp_path / "data") as front:
            front.put("kept", requestId="r")
            redis_server.kill()
            begun = time.monotonic()
            for method in ("POST", "GET", "PUT", "DELETE"):
                answer = http.request(method, f"{front.input}?_indexes_=1")
                assert answer.status_code == 503 and "retry-after" not in answer.headers and answer.json()["detail"]
            assert time.monotonic() - begun < 60
            assert http.get(f"{front.url}/health/live").status_code == 200
            redis_server.start()
            wait_until(lambda: http.get(front.input).status_code == 200)
            assert front.put("kept", requestId="r") == 1

    def test_it_starts_before_its_store(self, tmp_path):
        redis_server = RedisServer(tmp_path / "redis")
        with run_front(redis_server.url, tmp_path / "data") as front:
            assert http.get(f"{front.url}/health/ready").status_code == 503
            assert http.post(front.input, content=b"x").status_code == 503
            with redis_server:
                wait_until(lambda: http.get(f"{front.url}/health/ready").status_code == 200)
                assert front.put() == 1

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("no folder")
        with run_front(f"sqlite:///{tmp_path}/file/queue.sqlite3", tmp_path / "data") as front:
            assert http.post(front.input, content=b"x").status_code == 503


class TestTasksById:
    def test_from_the_put_to_the_end(self, front: Front):
        for number in range(3):
            front.put("{}", requestId=f"r{number}", task_id=f"t{number}")
        jobs = f"{front.url}/sdapi/v1/jobs"
        waiting = http.get(f"{jobs}/r2").json()
        assert (waiting["state"], waiting["position"], waiting["index"]) == ("queued", 2, 3)
        assert waiting["tags"] == {"requestId": "r2", "task_id": "t2"} and waiting["result"] is None
        with front.watch(gid="sd_async", _window_=1) as worker:
            worker.recv(timeout=PATIENCE)
            assert http.get(f"{jobs}/r0").json()["state"] == "running"
            assert http.get(f"{jobs}/r2").json()["position"] == 1
        assert http.get(f"{jobs}/unknown").status_code == 404

    def test_cancelling_leaves_a_result_that_says_so(self, front: Front):
        front.put("{}", requestId="r", task_id="t")
        gone = http.delete(f"{front.url}/sdapi/v1/jobs/r").json()
        assert gone["state"] == "failed" and "cancelled" in gone["error"]
        assert gone["result"]["parameters"]["status"] == 499
        (result,) = rows(front.sink)
        assert result["tags"] == {"requestId": "r", "task_id": "t", "lastCode": "499"}
        assert front.length() == 0
        assert http.delete(f"{front.url}/sdapi/v1/jobs/r").json()["state"] == "failed"
        assert rows(front.sink) == []

    def test_users_do_not_see_each_others(self, sqlite_url, tmp_path):
        with run_front(sqlite_url, tmp_path, "--api-auth", "a:1,b:2") as front:
            http.post(front.input, params={"requestId": "r"}, auth=("a", "1"))
            found = [http.get(f"{front.url}/sdapi/v1/jobs/r", auth=auth) for auth in (("a", "1"), ("b", "2"))]
            assert [answer.status_code for answer in found] == [200, 404]
