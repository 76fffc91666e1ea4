"""Callbacks over real stores, the real sender and a real server: signed, repeated, parked, given up."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sdwebui_api.config.flags import parse_flags
from sdwebui_api.queueing.callbacks import CallbackDispatcher, CallbackRules
from sdwebui_api.queueing.store import QueueStore
from sdwebui_api.storage.callback_sender import CallbackSender, callback_sender
from tests.queueing.stores.conftest import BACKENDS
from tests.queueing.stores.support import CALLBACKS, QUEUE, REAR, item, length
from tests.queueing.support import at_work, result_of, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=sorted(BACKENDS))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[QueueStore]:
    with BACKENDS[request.param](tmp_path) as make:
        opened = make()
        await opened.open()
        yield opened
        await opened.close()


class Receiver:
    """Answers with the next of `statuses`, the last one again and again; 0 drops the connection."""

    def __init__(self) -> None:
        self.statuses = [200]
        self.calls: list[tuple[float, str, dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.calls.append((time.monotonic(), self.path, dict(self.headers), body))
                left = receiver.statuses
                status = left.pop(0) if len(left) > 1 else left[0]
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/done?job=1"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def sender(*flags: str) -> CallbackSender:
    return callback_sender(parse_flags(["--image-link-allow", "127.0.0.1", *flags], environ={}), environ={})


def dispatcher(store: QueueStore, through: CallbackSender | None = None, **rules: float) -> CallbackDispatcher:
    settled = CallbackRules(QUEUE, **{"first_pause": 0.2, "lease": 6.0, **rules})  # type: ignore[arg-type]
    return CallbackDispatcher(lambda: store, through or sender(), settled)


async def put(store: QueueStore, url: str, rid: str = "r", body: bytes = b'{"images": []}') -> None:
    await store.put(CALLBACKS, item(body, rid=rid, _callback_url_=url))


async def _is_empty(store: QueueStore) -> bool:
    return await length(store, CALLBACKS) == 0


async def test_the_result_arrives_signed_under_its_request_id(store, receiver, tmp_path):
    (tmp_path / "secret").write_text("s3cret\n")
    await put(store, receiver.url)
    async with at_work(dispatcher(store, sender("--callback-secret-file", str(tmp_path / "secret")))):
        await until(lambda: _is_empty(store))
    ((_, path, headers, body),) = receiver.calls
    assert (path, body, headers["X-Request-Id"]) == ("/done?job=1", b'{"images": []}', "r")
    assert headers["Content-Type"] == "application/json"
    signed = headers["X-Sdwebui-Timestamp"].encode() + b"." + body
    assert headers["X-Sdwebui-Signature"] == "sha256=" + hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()


async def test_it_is_sent_again_with_growing_pauses_until_it_is_taken(store, receiver):
    receiver.statuses = [500, 404, 302, 204]
    await put(store, receiver.url)
    async with at_work(dispatcher(store)):
        await until(lambda: _is_empty(store))
    times = [at for at, *_ in receiver.calls]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(pauses) == 3
    assert pauses[0] >= 0.15 and pauses[1] >= 0.3 and pauses[2] >= 0.6


async def test_a_host_that_does_not_answer_is_left_alone_for_a_while(store, receiver):
    receiver.statuses = [0, 200]
    for number in range(5):
        await put(store, receiver.url, rid=f"r{number}")
    async with at_work(dispatcher(store, room=1)):
        await until(lambda: _is_empty(store))
    times = [at for at, *_ in receiver.calls]
    assert len(times) == 6  # one failure, then five successes
    assert times[1] - times[0] >= 0.15


async def test_one_dead_host_does_not_keep_the_others_waiting(store, receiver):
    for number in range(20):
        await put(store, "http://127.0.0.1:1/nobody", rid=f"dead{number}")
    await put(store, receiver.url)
    async with at_work(dispatcher(store, room=2, first_pause=300.0)):
        await until(lambda: receiver.calls)
    assert await length(store, CALLBACKS) == 20


async def test_a_pause_outlives_the_process(store, receiver):
    receiver.statuses = [500, 200]
    await put(store, receiver.url)
    async with at_work(dispatcher(store, first_pause=1.5)):
        await until(lambda: receiver.calls)
        await asyncio.sleep(0.2)
    async with at_work(dispatcher(store)):
        await until(lambda: _is_empty(store))
    (first, *_), (second, *_) = receiver.calls
    assert second - first >= 1.1


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://169.254.169.254/latest", "169.254.169.254"),
        ("ftp://127.0.0.1/x", "ftp"),
        ("nonsense", "nonsense"),
        ("http://[::1", "http://[::1"),
    ],
)
async def test_an_address_that_may_not_be_called_is_a_dead_letter(store, url, reason):
    await put(store, url)
    async with at_work(dispatcher(store)):
        dead = await result_of(store, "r", REAR)
        await until(lambda: _is_empty(store))
    assert reason in dead.tags["deadReason"] and dead.data == b'{"images": []}'
    assert "_callback_url_" not in dead.tags


async def test_it_is_given_up_after_a_day(store, receiver):
    receiver.statuses = [500]
    await put(store, receiver.url)
    async with at_work(dispatcher(store, give_up_after=3.0)):
        dead = await result_of(store, "r", REAR)
    assert "it answered 500" in dead.tags["deadReason"] and len(receiver.calls) >= 2


async def test_gone_is_gone(store, receiver):
    receiver.statuses = [410]
    await put(store, receiver.url)
    async with at_work(dispatcher(store)):
        await result_of(store, "r", REAR)
    assert len(receiver.calls) == 1
