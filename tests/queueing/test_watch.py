"""Watchers, as WebSockets and as the stream without an upgrade."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from sdwebui_api.config.flags import parse_flags
from sdwebui_api.queueing.watch import BELL_SECONDS
from sdwebui_api.serving import GRACE_SECONDS
from tests.queueing.frame_reader import Frame, read_frame
from tests.support.fronts import PATIENCE, Front, http, run_front, wait_until
from tests.support.redis_server import RedisServer

GID = "X-EAS-QueueService-Redis-Gid"
LEASE = parse_flags([], environ={}).queue_lease


def take(watcher: ClientConnection, count: int, timeout: float = PATIENCE) -> list[Frame]:
    frames = []
    for _ in range(count):
        message = watcher.recv(timeout=timeout)
        assert isinstance(message, bytes) and message, "binary, never empty"
        frames.append(read_frame(message))
    return frames


def indexes(watcher: ClientConnection, count: int, timeout: float = PATIENCE) -> list[int]:
    return [frame.index for frame in take(watcher, count, timeout)]


def nothing_comes(watcher: ClientConnection, seconds: float = 0.3) -> bool:
    try:
        watcher.recv(timeout=seconds)
    except TimeoutError:
        return True
    return False


def commit(front: Front, index: int, of: str | None = None, gid: str = "eas") -> None:
    assert http.put(of or front.input, params={"_indexes_": index}, headers={GID: gid}).text == "OK"


def abort(watcher: ClientConnection) -> None:
    """As the SDKs leave: the socket is shut down, no Close frame."""
    watcher.socket.shutdown(socket.SHUT_RDWR)


class TestDelivery:
    def test_priority_then_index(self, front: Front):
        for number in range(3):
            front.put(f"low {number}")
        for number in range(2):
            front.put(f"high {number}", _priority_=1)
        with front.watch(_window_=9) as watcher:
            found = [frame.data.decode() for frame in take(watcher, 5)]
        assert found == ["high 0", "high 1", "low 0", "low 1", "low 2"]

    def test_the_window_is_never_exceeded_and_a_commit_makes_room(self, front: Front):
        for number in range(6):
            front.put(str(number), task_id=f"t{number}")
        with front.watch(_window_=2) as watcher:
            first = take(watcher, 2)
            assert [(frame.index, frame.data, frame.tags["task_id"]) for frame in first] == [
                (1, b"0", "t0"),
                (2, b"1", "t1"),
            ]
            assert nothing_comes(watcher)
            commit(front, 2)
            assert indexes(watcher, 1) == [3]
            assert nothing_comes(watcher, 0.1)
            http.put(front.input, params={"_indexes_": "1,3"})
            assert indexes(watcher, 2) == [4, 5]
            assert front.length() == 3

    def test_what_comes_later_is_sent_at_once(self, front: Front):
        with front.watch() as watcher:
            assert nothing_comes(watcher, 0.2)
            begun = time.monotonic()
            front.put("late")
            assert take(watcher, 1)[0].data == b"late"
            assert time.monotonic() - begun < BELL_SECONDS / 2, "woken, not found by looking again"

    def test_auto_commit_ignores_the_window_and_empties_the_queue(self, front: Front):
        for number in range(100):
            front.put(str(number))
        with front.watch(_window_=2, _auto_commit_="true") as watcher:
            assert indexes(watcher, 100) == list(range(1, 101))
            wait_until(lambda: front.length() == 0)

    def test_index_only(self, front: Front):
        front.put("data", task_id="t")
        with front.watch(_index_only_="true") as watcher:
            (frame,) = take(watcher, 1)
        assert (frame.index, frame.data, frame.tags["task_id"]) == (1, b"", "t")

    def test_tags_filter(self, front: Front):
        for number in range(6):
            front.put(str(number), color="red" if number % 2 else "blue", size="s" if number > 2 else "l")
        with front.watch(color="red", size="s") as watcher:
            assert indexes(watcher, 2) == [4, 6]
            assert nothing_comes(watcher, 0.1)

    def test_from_an_index_or_from_now_on(self, front: Front):
        for number in range(4):
            front.put(str(number))
        with front.watch(uid="a", _index_=3) as watcher:
            assert indexes(watcher, 2) == [3, 4]
        with front.watch(uid="b", gid="other", _index_=-1) as watcher:
            assert nothing_comes(watcher, 0.2)
            front.put("new")
            assert indexes(watcher, 1) == [5]

    def test_a_group_shares_and_every_group_sees_all(self, front: Front):
        with front.watch(uid="a") as a, front.watch(uid="b") as b, front.watch(uid="a", gid="all", _window_=20) as c:
            for number in range(10):
                front.put(str(number))
            shared = indexes(a, 5) + indexes(b, 5)
            assert sorted(shared) == list(range(1, 11)) == indexes(c, 10)
            for index in range(1, 11):
                commit(front, index)
            assert front.length() == 10, "the other group is not done with them"
            for index in range(1, 11):
                commit(front, index, gid="all")
            assert front.length() == 0

    def test_a_commit_by_another_user_of_the_group_counts(self, front: Front):
        for number in range(2):
            front.put(str(number))
        with front.watch(_window_=1) as watcher:
            assert indexes(watcher, 1) == [1]
            commit(front, 1)
            assert indexes(watcher, 1) == [2]

    def test_a_large_result_is_one_unfragmented_message(self, plain_front: Front):
        data = bytes(range(256)) * 4096
        index = plain_front.put(data, to=plain_front.sink)
        with plain_front.watch(plain_front.sink) as watcher:
            parts = list(watcher.recv_streaming(decode=False))
        assert len(parts) == 1 and read_frame(parts[0]).data == data
        commit(plain_front, index, plain_front.sink)


class TestLeavingAndComingBack:
    def test_what_an_aborted_watcher_held_comes_again_in_order(self, front: Front):
        for number in range(5):
            front.put(str(number))
        first = front.watch(uid="a", _window_=3)
        assert indexes(first, 3) == [1, 2, 3]
        commit(front, 2)
        abort(first)
        with front.watch(uid="b", _window_=9) as second:
            assert sorted(indexes(second, 4)) == [1, 3, 4, 5]

    def test_the_same_user_again_gets_what_it_had_pending(self, front: Front):
        """Under the same name at once after an abort, as the SDK's own tests come back."""
        for number in range(3):
            front.put(str(number))
        for _ in range(30):
            watcher = front.watch(uid="a")
            assert indexes(watcher, 3) == [1, 2, 3]
            abort(watcher)
        with front.watch(uid="a", _auto_commit_="true") as watcher:
            assert indexes(watcher, 3) == [1, 2, 3]
            wait_until(lambda: front.length() == 0)

    def test_a_newer_connection_takes_over(self, front: Front):
        for number in range(2):
            front.put(str(number))
        old = front.watch(uid="a", _window_=5)
        assert indexes(old, 2) == [1, 2]
        begun = time.monotonic()
        with front.watch(uid="a", _window_=5) as new:
            assert indexes(new, 2) == [1, 2]
            front.put("late")
            assert indexes(new, 1) == [3]
            with pytest.raises(ConnectionClosed) as closed:
                old.recv(timeout=PATIENCE)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 4009
            assert time.monotonic() - begun >= 1, "or two clients of one name would replace each other in a loop"
            commit(front, 1)
            front.put("still")
            assert indexes(new, 1) == [4]

    def test_of_an_aborted_auto_committing_watcher_nothing_later_is_lost(self, front: Front):
        watcher = front.watch(uid="a", _auto_commit_="true")
        front.put("1")
        assert indexes(watcher, 1) == [1]
        abort(watcher)
        for number in range(10):
            front.put(str(number))
        with front.watch(uid="a", _auto_commit_="true") as again:
            assert indexes(again, 10) == list(range(2, 12))


class TestSeveralFrontEnds:
    def test_a_commit_elsewhere_makes_room_here(self, queue_url, tmp_path):
        with run_front(queue_url, tmp_path / "a") as here, run_front(queue_url, tmp_path / "b") as there:
            for number in range(40):
                there.put(str(number))
            with here.watch(_window_=2) as watcher:
                begun = time.monotonic()
                for index in range(1, 41):
                    assert indexes(watcher, 1) == [index]
                    commit(there, index)
                assert time.monotonic() - begun < 4 * BELL_SECONDS, "woken, not found by looking again"
            assert here.length() == 0

    def test_what_is_put_there_is_sent_here_within_moments(self, queue_url, tmp_path):
        with (
            run_front(queue_url, tmp_path / "a") as here,
            run_front(queue_url, tmp_path / "b") as there,
            here.watch() as watcher,
        ):
            waits = []
            for number in range(10):
                begun = time.monotonic()
                there.put(str(number))
                (frame,) = take(watcher, 1)
                waits.append(time.monotonic() - begun)
                commit(here, frame.index)
            assert min(waits) < 0.3

    def test_a_connection_there_replaces_the_one_here(self, queue_url, tmp_path):
        with run_front(queue_url, tmp_path / "a") as here, run_front(queue_url, tmp_path / "b") as there:
            here.put("1")
            old = here.watch(uid="a")
            assert indexes(old, 1) == [1]
            with there.watch(uid="a") as new:
                assert indexes(new, 1) == [1]
                with pytest.raises(ConnectionClosed):
                    old.recv(timeout=PATIENCE)

    def test_clients_that_come_and_go_at_random_see_everything(self, queue_url, tmp_path):
        """Three users of a group on two front ends: they abort at any moment and commit on either side."""
        total, seed = 150, random.randrange(2**32)
        print(f"seed {seed}")
        with run_front(queue_url, tmp_path / "a") as a, run_front(queue_url, tmp_path / "b") as b:
            seen: set[int] = set()

            def client(uid: str) -> None:
                dice = random.Random(f"{seed} {uid}")
                while len(seen) < total:
                    watcher = dice.choice((a, b)).watch(uid=uid, _window_=dice.randint(1, 8))
                    with suppress(TimeoutError, ConnectionClosed):
                        while dice.random() > 0.1:
                            (index,) = indexes(watcher, 1, 1.0)
                            if dice.random() < 0.8:
                                commit(dice.choice((a, b)), index)
                                seen.add(index)
                    abort(watcher)

            def puts() -> None:
                for number in range(total):
                    (a, b)[number % 2].put(str(number))

            threads = [threading.Thread(target=client, args=(f"u{number}",)) for number in range(3)]
            threads.append(threading.Thread(target=puts))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(240)
                assert not thread.is_alive(), f"seen {len(seen)} of {total}"
            assert seen == set(range(1, total + 1)) and a.length() == 0


class TestHandshake:
    def test_nothing_is_negotiated(self, plain_front: Front):
        host, port = plain_front.url.removeprefix("http://").split(":")
        lines = [
            "GET /api/predict/sd_async?_watch_=true HTTP/1.1", f"Host: {host}:{port}", "Upgrade: websocket",
            "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
            f"Origin: http://{host}:{port}/api/predict/sd_async", "Sec-WebSocket-Protocol: x",
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits", "", "",
        ]  # fmt: skip
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as raw:
            raw.sendall("\r\n".join(lines).encode())
            answer = raw.recv(4096).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in answer[1:])}
        assert answer[0].startswith("HTTP/1.1 101")
        assert headers["upgrade"].lower() == "websocket" and headers["connection"].lower() == "upgrade"
        assert "sec-websocket-extensions" not in headers and "sec-websocket-protocol" not in headers

    @pytest.mark.parametrize(
        ("path", "query", "status"),
        [
            ("sd_async", {"_window_": "0"}, 400),
            ("sd_async", {"_window_": "many"}, 400),
            ("sd_async", {"_index_": "-2"}, 400),
            ("sd_async", {"_watch_": "false"}, 400),
            ("other", {}, 404),
            ("other/sink", {}, 404),
        ],
    )
    def test_refusals_are_answers_not_closed_connections(self, plain_front: Front, path, query, status):
        with pytest.raises(InvalidStatus) as refused:
            plain_front.watch(f"{plain_front.url}/api/predict/{path}", **query)
        assert refused.value.response.status_code == status and refused.value.response.body

    def test_the_token(self, sqlite_url, tmp_path):
        with run_front(sqlite_url, tmp_path, "--token", "s3cret") as front:
            for token in (None, "", "wrong"):
                with pytest.raises(InvalidStatus) as refused:
                    front.watch(token=token)
                assert refused.value.response.status_code == 401
            front.watch(token="s3cret").close()
            front.watch(token="Bearer s3cret").close()

    def test_an_ended_stream_is_sent_to_its_end_and_then_refused(self, front: Front):
        front.put("1"), front.put("2")
        assert http.post(front.input, params={"_eos_": "true"}).status_code == 200
        with front.watch() as watcher:
            for index in indexes(watcher, 2):
                commit(front, index)
            with pytest.raises(ConnectionClosed) as closed:
                watcher.recv(timeout=PATIENCE)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000
        with pytest.raises(InvalidStatus) as refused:  # accepted and closed, the SDK would reconnect without a pause
            front.watch()
        assert refused.value.response.status_code == 409


class TestLiveness:
    @contextmanager
    def quick(self, url: str, folder) -> Iterator[Front]:
        with run_front(url, folder, ws_ping_interval=0.2, ws_ping_timeout=2.0) as front:
            yield front

    def test_a_silent_client_is_dead_and_its_items_are_free(self, sqlite_url, tmp_path):
        with self.quick(sqlite_url, tmp_path) as front:
            front.put("1")
            silent = _Raw(front)
            silent.read_until(b"\x08\x01")
            with front.watch(uid="other") as other:
                assert indexes(other, 1, LEASE / 2) == [1]
            silent.close()

    def test_a_client_that_only_sends_pings_of_its_own_lives(self, sqlite_url, tmp_path):
        """The Python SDK while its user works on an item: it reads nothing, so it answers no ping."""
        with self.quick(sqlite_url, tmp_path) as front:
            front.put("1"), front.put("2")
            client = _Raw(front, window=1)
            client.read_until(b"\x08\x01")
            for _ in range(30):  # longer than a silent one would live
                time.sleep(0.1)
                client.ping()
            commit(front, 1)
            client.read_until(b"\x08\x02")
            client.close()

    def test_what_clients_send_means_nothing(self, front: Front):
        with front.watch() as watcher:
            for message in ("commit 1", b"\x00\xff", "x" * 100_000):
                watcher.send(message)
            assert watcher.ping(b"ping").wait(PATIENCE)
            front.put("1")
            assert indexes(watcher, 1) == [1]

    def test_a_slow_reader_keeps_its_lease(self, sqlite_url, tmp_path):
        with run_front(sqlite_url, tmp_path, "--queue-lease", "2.5") as front:
            front.put("1")
            with front.watch(uid="a") as slow, front.watch(uid="b") as other:
                holder, waiter = (slow, other) if not nothing_comes(slow, 3.0) else (other, slow)
                assert nothing_comes(waiter, 5)
                abort(holder)
                assert indexes(waiter, 1) == [1]

    def test_when_the_server_stops_watchers_are_told_and_the_port_is_closed(self, queue_url, tmp_path):
        with run_front(queue_url, tmp_path) as front:
            watchers = [front.watch(uid=f"u{number}") for number in range(5)]
            with http.stream("GET", front.input, params={"_watch_": "true"}) as stream:
                assert stream.status_code == 200
                assert front.server is not None
                begun = time.monotonic()
                front.server.should_exit = True
                for watcher in watchers:
                    with pytest.raises(ConnectionClosed) as closed:
                        watcher.recv(timeout=PATIENCE)
                    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
                    with pytest.raises(OSError):
                        front.watch()
                assert list(stream.iter_raw()) == []
            assert time.monotonic() - begun < GRACE_SECONDS

    def test_a_watcher_outlives_a_restart_of_redis(self, tmp_path):
        with RedisServer(tmp_path / "redis") as server, run_front(server.url, tmp_path / "data") as front:
            front.put("1")
            with front.watch(_window_=1) as watcher:
                assert indexes(watcher, 1) == [1]
                server.kill()
                time.sleep(0.5)
                server.start()
                wait_until(lambda: http.get(front.input, params={"_attrs_": "true"}).status_code == 200)
                front.put("2"), commit(front, 1)
                assert indexes(watcher, 1) == [2]


class TestStream:
    """Without an upgrade: 4 bytes of length, then the frame."""

    @contextmanager
    def stream(self, front: Front, **query) -> Iterator[Iterator[Frame]]:
        with http.stream("GET", front.input, params={"_watch_": "true", "_index_": 0, **query}) as answer:
            assert answer.status_code == 200, answer.read()
            yield self.records(answer)

    def records(self, answer: httpx.Response) -> Iterator[Frame]:
        buffer = b""
        for part in answer.iter_raw():
            buffer += part
            while len(buffer) >= 4 and len(buffer) >= 4 + int.from_bytes(buffer[:4], "big"):
                size = int.from_bytes(buffer[:4], "big")
                yield read_frame(buffer[4 : 4 + size])
                buffer = buffer[4 + size :]

    def test_records_within_the_window(self, front: Front):
        for number in range(4):
            front.put(str(number) * 300)
        with self.stream(front, _window_=2) as frames:
            assert [next(frames).data for _ in range(2)] == [b"0" * 300, b"1" * 300]
            assert front.length() == 4
            threading.Timer(0.2, commit, (front, 1)).start()
            assert next(frames).index == 3
            threading.Timer(0.2, commit, (front, 2)).start()
            assert next(frames).index == 4

    def test_a_client_that_goes_leaves_its_items(self, front: Front):
        front.put("1")
        for _ in range(60):  # now and then the next one comes in the very moment of a wake-up
            with self.stream(front) as frames:
                assert next(frames).index == 1
        with front.watch(uid="other") as watcher:
            assert indexes(watcher, 1) == [1]

    def test_refusals(self, front: Front):
        assert http.get(front.input, params={"_watch_": "true", "_window_": "0"}).status_code == 400
        http.post(front.input, params={"_eos_": "true"})
        assert http.get(front.input, params={"_watch_": "true"}).status_code == 409


class _Raw:
    """A client that neither reads nor answers by itself."""

    def __init__(self, front: Front, window: int = 5) -> None:
        host, port = front.url.removeprefix("http://").split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self._socket.sendall(
            f"GET /api/predict/sd_async?_watch_=true&_window_={window} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            .encode()
        )  # fmt: skip
        self._seen = b""

    def read_until(self, text: bytes) -> None:
        while text not in self._seen:
            more = self._socket.recv(4096)
            assert more, "closed by the server"
            self._seen += more

    def ping(self) -> None:
        self._socket.sendall(b"\x89\x84\x00\x00\x00\x00ping")

    def close(self) -> None:
        self._socket.close()
