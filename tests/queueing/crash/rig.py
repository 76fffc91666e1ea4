"""Processes, a stream of puts, and kills at random moments."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from sdwebui_api.config.flags import parse_flags
from sdwebui_api.queueing.model import Consumer, Item, NewItem, TaskRecord, sink_of
from sdwebui_api.queueing.settings import queue_settings
from sdwebui_api.queueing.store import QueueStore, StoreUnavailable
from sdwebui_api.queueing.stores.build import make_store
from tests.queueing.crash.check import Put
from tests.queueing.crash.zygote import Zygote
from tests.support.redis_server import RedisServer, free_port

SERVICE = "sd_async"
BACKLOG = 40
"""Waiting requests above which the client pauses: the queue is never empty, and soon empty after the last kill."""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill(pid: int) -> None:
    """SIGKILL, also of one that was killed already; returns when the process is gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 60
    while alive(pid):
        assert time.monotonic() < end, f"process {pid} does not die"
        time.sleep(0.001)


class Looker:
    """The test's own connection to the store, on an event loop of its own."""

    def __init__(self, url: str, data_dir: Path) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        flags = parse_flags(["--queue-url", url], environ={})
        self._store: QueueStore = make_store(queue_settings(flags, data_dir))
        self.run(self._store.open)

    def run(self, act: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Repeats while the store is away."""
        end = time.monotonic() + 120
        while True:
            try:
                return asyncio.run_coroutine_threadsafe(act(*args, **more), self._loop).result(120)
            except StoreUnavailable:
                assert time.monotonic() < end
                time.sleep(0.05)

    def length(self, queue: str = SERVICE) -> int:
        return int(self.run(self._store.stats, queue, consumers=False).length)

    def put(self, items: Iterable[NewItem]) -> None:
        for item in items:
            self.run(self._store.put, SERVICE, item)

    def results(self) -> list[Item]:
        found: list[Item] = self.run(self._store.get, sink_of(SERVICE), start=1, length=10**6)
        return found

    def task(self, request_id: str) -> TaskRecord | None:
        found: TaskRecord | None = self.run(self._store.task, SERVICE, request_id)
        return found

    def take(self, count: int) -> list[tuple[str, int]]:
        """Request ids and delivery counts of what a worker would be given now."""
        consumer = Consumer(SERVICE, "looker", "looker")
        self.run(self._store.join, SERVICE, consumer)
        taken = self.run(self._store.take, SERVICE, consumer, count, lease=60.0)
        return [(delivery.item.request_id, delivery.count) for delivery in taken]

    def close(self) -> None:
        self.run(self._store.close)
        self._loop.call_soon_threadsafe(self._loop.stop)


class Client(threading.Thread):
    """Puts one request after the other, each until it is acknowledged, one in four with high priority.

    Two in three carry an id of their own, under which they are put again after a lost connection; of the others nobody
    can tell then whether they were put (`doubtful`), and the next attempt is another request.
    """

    def __init__(self, url: str, looker: Looker) -> None:
        super().__init__(daemon=True)
        self.puts: list[Put] = []
        self.doubtful = 0
        self._url = f"{url}/api/predict/{SERVICE}"
        self._looker = looker
        self._ended = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with httpx.Client(timeout=5.0) as client:
                number = 0
                while not self._ended.is_set():
                    number += 1
                    self._put(client, number, int(random.random() < 0.25))
                    if number % 10 == 0:
                        self._pause()
        except BaseException as error:
            self.error = error
            raise

    def _put(self, client: httpx.Client, number: int, priority: int) -> None:
        query = {"task_id": str(number), "_priority_": str(priority)}
        if number % 3:
            query["requestId"] = f"request-{number}"
        body = {"prompt": str(number), "steps": 1, "width": 64, "height": 64}
        end = time.monotonic() + 180
        while True:
            assert time.monotonic() < end, f"put {number} is not acknowledged"
            try:
                answer = client.post(f"{self._url}/sdapi/v1/txt2img", params=query, json=body)
            except httpx.HTTPError:
                self.doubtful += "requestId" not in query
                time.sleep(0.01)
                continue
            if answer.status_code == 200:
                request_id = answer.headers["X-Eas-Queueservice-Request-Id"]
                self.puts.append(Put(request_id, number, priority, int(answer.text)))
                return
            assert answer.status_code in (429, 503), answer.text
            time.sleep(0.02)

    def _pause(self) -> None:
        while self._looker.length() > BACKLOG and not self._ended.is_set():
            time.sleep(0.02)

    def stop(self) -> None:
        self._ended.set()
        self.join(240)
        assert not self.is_alive() and self.error is None, self.error


class Rig:
    """Front end and worker over one store, killed and started again."""

    def __init__(
        self,
        zygote: Zygote,
        folder: Path,
        redis: RedisServer | None,
        *,
        role: str,
        tries: int,
        seconds: float,
        lease: float,
    ) -> None:
        """`role`: the function of `roles` that a worker runs; `tries`: `--max-delivery`; `seconds`: the longest job;
        `lease`: `--queue-lease`."""
        self.folder = folder
        self.redis = redis
        self.url = redis.url if redis else f"sqlite:///{folder / 'queue.sqlite3'}"
        self.port = free_port()
        self.ledger = folder / "ledger.jsonl"
        self._zygote = zygote
        self._role = role
        self._tries = str(tries)
        self._lease = str(lease)
        self._seconds = seconds
        self.pids: dict[str, int] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def flags(self) -> list[str]:
        return ["--queue-url", self.url, "--queue-lease", self._lease, "--max-delivery", self._tries]

    def start(self, name: str) -> None:
        """`frontend`, `worker` or `worker-…`"""
        log = self.folder / f"{name}.log"
        if name == "frontend":
            more = ["--port", str(self.port), "--data-dir", str(self.folder)]
            self.pids[name] = self._zygote.fork("tests.queueing.crash.roles:frontend", log, flags=[*self.flags, *more])
        else:
            arguments = {
                "data_dir": str(self.folder),
                "ledger": str(self.ledger),
                "flags": self.flags,
                "seconds": self._seconds,
            }
            self.pids[name] = self._zygote.fork(f"tests.queueing.crash.roles:{self._role}", log, **arguments)

    def until_up(self) -> None:
        end = time.monotonic() + 120
        while True:
            try:
                if httpx.get(f"{self.address}/health/live", timeout=20).status_code == 200:
                    return
            except httpx.HTTPError:
                assert time.monotonic() < end, self.logs()
                time.sleep(0.02)

    def crash(self, names: Sequence[str]) -> None:
        """kill -9 of all of them, then a new start."""
        for name in names:
            if name != "redis":
                assert alive(self.pids[name]), f"{name} ended by itself:\n{self.logs()}"
                os.kill(self.pids[name], signal.SIGKILL)
        for name in names:
            if name == "redis":
                assert self.redis is not None
                self.redis.kill()
                self.redis.start()
            else:
                kill(self.pids[name])
                self.start(name)

    def terminate(self, name: str) -> None:
        """SIGTERM; returns when the process has ended by itself."""
        pid = self.pids.pop(name)
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 120
        while alive(pid):
            assert time.monotonic() < end, f"{name} does not end:\n{self.logs()}"
            time.sleep(0.01)

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        for pid in self.pids.values():
            kill(pid)


@contextmanager
def rig(
    zygote: Zygote,
    folder: Path,
    store: str,
    *,
    role: str = "worker",
    tries: int = 3,
    workers: int = 1,
    seconds: float = 0.02,
    lease: float = 1.5,
) -> Iterator[Rig]:
    """Running, with a front end that answers. The workers are called `worker`, `worker-2`, …"""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(folder / "redis")) if store == "redis" else None
        made = Rig(zygote, folder, redis, role=role, tries=tries, seconds=seconds, lease=lease)
        stack.callback(made.close)
        made.start("frontend")
        for number in range(workers):
            made.start(f"worker-{number + 1}" if number else "worker")
        made.until_up()
        yield made
