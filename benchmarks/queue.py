"""Puts per second, and the time from a put to the frame at a watcher, for both stores behind `launch.py frontend`.

    python -m benchmarks.queue [--puts 1600] [--rounds 3] [--backlog 100000] [--write]

1 and 16 clients put messages of 800 bytes while one watcher reads them, with 10 and with 100,000 other messages
waiting. Every round also measures a bare peer: the same HTTP server with one XADD per put and an XREADGROUP loop
behind the WebSocket (`benchmarks.bare_queue`), on the same redis-server (append-only file, synced always). All sides
take turns. `--write` puts the table into `benchmarks/README.md`. Needs redis-server.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from websockets.asyncio.client import connect

from benchmarks.bare_queue import loop as bare_loop
from benchmarks.throughput import ROOT, free_port, machine, write_report
from sdwebui_api.queueing.model import NewItem
from sdwebui_api.queueing.store import QueueStore
from sdwebui_api.queueing.stores.redis import RedisStore
from sdwebui_api.queueing.stores.sqlite import SqliteStore

CLIENTS = (1, 16)
FEW = 10
SERVICE = "sd_async"
START_SECONDS = 60.0
FILLER = b'"prompt": "' + b"a lighthouse on a cliff, " * 30 + b'"'
SENT = re.compile(rb'"sent": ([0-9.]+)')


@dataclass
class Side:
    """Something that takes puts and shows them to watchers, and what was measured of it."""

    name: str
    waiting: str
    port: int
    put_path: str
    watch_path: str
    rates: dict[int, list[float]] = field(default_factory=dict)
    """Puts per second of each round, by number of clients."""
    delays: dict[int, list[float]] = field(default_factory=dict)
    """Seconds from put to watch, of all rounds."""


def queue_side(name: str, waiting: int, port: int) -> Side:
    path = f"/api/predict/{SERVICE}"
    watch = f"{path}?_watch_=true&_index_=-1&_window_=1000&_auto_commit_=true"
    return Side(name, f"{waiting:,}", port, f"{path}?task_id=benchmark", watch)


# -- the load ----------------------------------------------------------------------------------------


def body() -> bytes:
    return b'{"sent": %.6f, %s}' % (time.perf_counter(), FILLER)


async def put_many(side: Side, count: int) -> None:
    """One client: one connection, one message after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", side.port)
    for _ in range(count):
        data = body()
        head = f"POST {side.put_path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{side.name} answered {answer!r}")
        length = re.search(rb"(?i)content-length: (\d+)", answer)
        assert length is not None
        await reader.readexactly(int(length[1]))
    writer.close()


async def measure(side: Side, clients: int, puts: int) -> None:
    url = f"ws://127.0.0.1:{side.port}{side.watch_path}"
    uid = {"X-EAS-QueueService-Redis-Uid": uuid.uuid4().hex}
    async with connect(url, additional_headers=uid, compression=None) as watcher:

        async def watch() -> list[float]:
            delays = []
            while len(delays) < puts:
                frame = await watcher.recv(decode=False)
                sent = SENT.search(frame)
                assert sent is not None, frame
                delays.append(time.perf_counter() - float(sent[1]))
            return delays

        watching = asyncio.create_task(watch())
        begin = time.perf_counter()
        await asyncio.gather(*(put_many(side, puts // clients) for _ in range(clients)))
        side.rates.setdefault(clients, []).append(puts / (time.perf_counter() - begin))
        side.delays.setdefault(clients, []).extend(await asyncio.wait_for(watching, 60))


async def fill(store: QueueStore, count: int) -> None:
    """`count` messages that nobody takes."""
    await store.open()
    left = iter(range(count))

    async def client() -> None:
        for number in left:
            tags = {"requestId": uuid.uuid4().hex, "task_id": f"waiting-{number}"}
            await store.put(SERVICE, NewItem(body(), tags))

    await asyncio.gather(*(client() for _ in range(200)))
    await store.close()


# -- the servers -------------------------------------------------------------------------------------


@contextmanager
def running(command: list[str], port: int, **environment: str) -> Iterator[None]:
    """A process, once something listens on `port`."""
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        asyncio.run(_until_listening(process, port))
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


async def _until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with exit code {process.returncode}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
            continue
        writer.close()
        return
    raise RuntimeError(f"nothing listened on port {port} within {START_SECONDS:.0f} s")


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """The address of a server that syncs every write."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--dir", str(folder), "--save", ""]
    with running([*command, "--appendonly", "yes", "--appendfsync", "always"], port):
        yield f"redis://127.0.0.1:{port}"


@contextmanager
def front_end(side: Side, url: str, folder: Path) -> Iterator[Side]:
    command = [sys.executable, str(ROOT / "launch.py"), "frontend", "--skip-prepare-environment"]
    command += ["--queue-url", url, "--port", str(side.port), "--queue-max-length", "1000000"]
    command += ["--data-dir", str(folder / f"data-{side.port}")]
    with running(command, side.port):
        yield side


@contextmanager
def bare(url: str) -> Iterator[Side]:
    side = Side("bare", "–", free_port(), "/put", "/watch")
    with running([sys.executable, "-m", "benchmarks.bare_queue", str(side.port)], side.port, REDIS_URL=url):
        yield side


@contextmanager
def all_sides(folder: Path, redis: str, backlog: int) -> Iterator[list[Side]]:
    """The bare one first."""
    with ExitStack() as stack:
        sides = [stack.enter_context(bare(f"{redis}/0"))]
        for number, waiting in enumerate((FEW, backlog), start=1):
            file, url = folder / f"queue-{waiting}.sqlite3", f"{redis}/{number}"
            asyncio.run(fill(SqliteStore(file), waiting))
            asyncio.run(fill(RedisStore(url), waiting))
            for name, address in (("sqlite", f"sqlite:///{file}"), ("Redis", url)):
                sides.append(stack.enter_context(front_end(queue_side(name, waiting, free_port()), address, folder)))
        yield sides


# -- the report --------------------------------------------------------------------------------------


def report(sides: list[Side], in_process: dict[int, list[float]], rounds: int) -> str:
    peer = sides[0]
    lines = [
        f"Machine: {machine().rpartition(',')[0]}. Messages of {len(body())} bytes, median of {rounds} rounds.",
        "",
        "| | waiting | clients | puts/s | of bare XADD/XREADGROUP behind HTTP | put to watch p50, ms | p99, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for side in sides:
        for clients in CLIENTS:
            ratio = statistics.median(a / b for a, b in zip(side.rates[clients], peer.rates[clients], strict=True))
            p50, p99 = (statistics.quantiles(side.delays[clients], n=100)[k] * 1000 for k in (49, 98))
            rate = statistics.median(side.rates[clients])
            lines.append(
                f"| {side.name} | {side.waiting} | {clients} | {rate:.0f} | {ratio:.2f} | {p50:.1f} | {p99:.1f} |"
            )
    for clients in CLIENTS:
        lines.append(f"| bare, without HTTP | – | {clients} | {statistics.median(in_process[clients]):.0f} | | | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puts", type=int, default=1600, help="messages per turn of 16 clients; a quarter for one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backlog", type=int, default=100_000, help="messages that wait in the second case")
    parser.add_argument("--write", action="store_true", help="put the result into benchmarks/README.md")
    arguments = parser.parse_args()
    in_process: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    with (
        tempfile.TemporaryDirectory(dir=ROOT) as name,
        redis_server(Path(name)) as redis,
        all_sides(Path(name), redis, arguments.backlog) as sides,
    ):
        for turn, clients in itertools.product(range(arguments.rounds), CLIENTS):
            puts = arguments.puts if clients > 1 else arguments.puts // 4
            for side in sides if turn % 2 == 0 else reversed(sides):
                asyncio.run(measure(side, clients, puts))
                print(f"{clients} clients, {side.name}, {side.waiting} waiting: {side.rates[clients][-1]:.0f} puts/s")
            in_process[clients].append(asyncio.run(bare_loop(f"{redis}/0", clients, puts, body())))
    text = report(sides, in_process, arguments.rounds)
    print(text)
    if arguments.write:
        write_report(text, "queue")


if __name__ == "__main__":
    main()
