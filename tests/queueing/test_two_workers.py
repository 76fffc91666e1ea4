"""Two worker processes on one Redis: they share, one dies, one is stopped; watchers survive a new front end."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from sdwebui_api.queueing.model import LAST_CODE, NewItem, sink_of
from tests.queueing.crash.ledger import read_ledger
from tests.queueing.crash.rig import SERVICE, Looker, Rig, kill, rig
from tests.queueing.crash.zygote import Zygote
from tests.queueing.frame_reader import read_frame

pytestmark = pytest.mark.slow

JOBS = 200
IDENTITY = {"X-EAS-QueueService-Redis-Uid": "me", "X-EAS-QueueService-Redis-Gid": "eas"}


@pytest.fixture
def running(zygote: Zygote, tmp_path: Path) -> Iterator[Rig]:
    with rig(zygote, tmp_path, "redis", workers=2, seconds=0.1, lease=8.0) as made:
        yield made


@pytest.fixture
def looker(running: Rig) -> Iterator[Looker]:
    made = Looker(running.url, running.folder)
    yield made
    made.close()


def put_jobs(looker: Looker) -> None:
    body = json.dumps({"prompt": "a", "steps": 1, "width": 64, "height": 64}).encode()
    looker.put(NewItem(body, {"requestId": f"r{number}"}, path="sdapi/v1/txt2img") for number in range(JOBS))


def until_results(looker: Looker, count: int, running: Rig) -> None:
    end = time.monotonic() + 240
    while looker.length(sink_of(SERVICE)) < count:
        assert time.monotonic() < end, running.logs()
        time.sleep(0.02)


def check_results(looker: Looker) -> None:
    """One for each request, none of them a failure."""
    results = looker.results()
    assert sorted(item.request_id for item in results) == sorted(f"r{number}" for number in range(JOBS))
    assert not [item.data for item in results if LAST_CODE in item.tags]


def deliveries(running: Rig) -> tuple[Counter[str], int]:
    """How many each worker was given, and how many of these had been given before."""
    given: Counter[str] = Counter()
    again = 0
    for event in read_ledger(running.ledger):
        given[event["worker"]] += len(event["takes"])
        again += sum(count > 1 for _, _, count in event["takes"])
    return given, again


def test_they_share_evenly(running, looker):
    put_jobs(looker)
    until_results(looker, JOBS, running)
    check_results(looker)
    given, again = deliveries(running)
    assert len(given) == 2 and min(given.values()) >= 0.2 * JOBS, given
    assert again == 0


def test_the_death_of_one_loses_nothing(running, looker):
    put_jobs(looker)
    until_results(looker, 40, running)
    kill(running.pids.pop("worker-2"))
    until_results(looker, JOBS, running)
    check_results(looker)
    _, again = deliveries(running)
    assert 0 < again <= 4  # what it was working on


def test_one_that_is_stopped_finishes_and_takes_nothing_more(running, looker):
    put_jobs(looker)
    until_results(looker, 40, running)
    running.terminate("worker-2")
    given, _ = deliveries(running)
    until_results(looker, JOBS, running)
    check_results(looker)
    later, again = deliveries(running)
    assert again == 0
    assert sorted(later.values())[0] in given.values() and sorted(later.values())[1] > sorted(given.values())[1]


class Watcher(threading.Thread):
    """As the SDKs watch: comes back at once when its connection ends, commits frame by frame."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._queue = f"{address}/api/predict/{SERVICE}/sink"
        self.ids: set[str] = set()
        self.times: list[float] = []
        self._ended = threading.Event()

    def run(self) -> None:
        with httpx.Client(headers=IDENTITY, timeout=60) as client:
            while not self._ended.is_set():
                try:
                    with self._connect() as connection:
                        self._read(connection, client)
                except (OSError, ConnectionClosed, httpx.HTTPError, TimeoutError):
                    time.sleep(0.02)

    def _connect(self) -> ClientConnection:
        query = "?_watch_=true&_index_=0&_window_=20&_index_only_=false&_auto_commit_=false"
        address = self._queue.replace("http:", "ws:") + query
        # Without a close handshake, as the SDKs: with full buffers it would not notice that nobody answers any more.
        return connect(address, additional_headers=IDENTITY, compression=None, open_timeout=60, close_timeout=0.05)

    def _read(self, connection: ClientConnection, client: httpx.Client) -> None:
        while not self._ended.is_set():
            message = connection.recv(5)
            assert isinstance(message, bytes)
            frame = read_frame(message)
            self.times.append(time.monotonic())
            self.ids.add(frame.tags["requestId"])
            client.put(self._queue, params={"_indexes_": frame.index}).raise_for_status()

    def stop(self) -> None:
        self._ended.set()
        self.join(90)

    @property
    def longest_silence(self) -> float:
        return max(later - earlier for earlier, later in pairwise(self.times))


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_new_front_end_costs_watchers_less_than_two_seconds_beyond_its_start(how, running, looker):
    watcher = Watcher(running.address)
    with ExitStack() as stack:
        stack.callback(watcher.stop)
        watcher.start()
        putter = threading.Thread(target=put_jobs, args=[looker])
        putter.start()
        until(lambda: len(watcher.ids) >= 20, running)
        begun = time.monotonic()
        if how == "stopped":
            running.terminate("frontend")
            running.start("frontend")
        else:
            running.crash(["frontend"])
        running.until_up()
        start = time.monotonic() - begun  # a busy machine needs longer for this and for all else
        until(lambda: len(watcher.ids) == JOBS, running)
        putter.join()
    assert watcher.ids == {f"r{number}" for number in range(JOBS)}
    assert watcher.longest_silence < 2.0 + 3 * start


def until(what, running: Rig) -> None:
    end = time.monotonic() + 240
    while not what():
        assert time.monotonic() < end, running.logs()
        time.sleep(0.02)
