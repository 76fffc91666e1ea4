"""What only the sqlite store promises: files, group commit, processes, failures of the disk."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sdwebui_api.queueing.model import Delivery
from sdwebui_api.queueing.store import StoreUnavailable
from sdwebui_api.queueing.stores.lite import rows as lite_rows
from sdwebui_api.queueing.stores.lite.schema import PATIENCE, Link
from sdwebui_api.queueing.stores.lite.writer import Transaction, Writer
from sdwebui_api.queueing.stores.sqlite import SqliteStore
from tests.queueing.stores.support import LONG, QUEUE, SINK, indexes, item, joined, length, one, put_many

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "queue.sqlite3"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(path)
    await made.open()
    yield made
    await made.close()


async def reopened(path: Path) -> SqliteStore:
    made = SqliteStore(path)
    await made.open()
    return made


# -- the clock ---------------------------------------------------------------------------------------


async def test_leases_move_with_the_clock(store, path, monkeypatch):
    """Of two processes either may notice first that it was set; a machine that slept looks the same."""
    other, real = await reopened(path), time.time
    await put_many(store, 1)
    taker, stranger = await joined(store), await joined(other, "stranger")
    held = await one(store, taker, lease=30.0)
    for hours in (1, 3, -2, 0):
        monkeypatch.setattr(time, "time", lambda hours=hours: real() + 3600 * hours)
        assert await other.take(QUEUE, stranger, 5, lease=LONG) == []
        assert await store.renew(QUEUE, taker, [held.item.index], lease=30.0) == [held.item.index]
    assert await store.renew(QUEUE, taker, [held.item.index], lease=0.05) == [held.item.index]
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    await asyncio.sleep(0.1)
    assert indexes(await other.take(QUEUE, stranger, 5, lease=LONG)) == [held.item.index]
    await other.close()


# -- durability --------------------------------------------------------------------------------------


async def test_every_commit_is_synced(path):
    path.parent.mkdir()
    link = Link(path, writes=True)
    assert link.get().execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert link.get().execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
    link.drop()


async def test_everything_is_there_after_a_restart(path):
    first = await reopened(path)
    await first.put(QUEUE, item("waits", rid="waits", task_id="t"))
    await first.put(QUEUE, item("held", rid="held"))
    await first.put(QUEUE, item("done", rid="done"))
    worker = await joined(first)
    await first.take(QUEUE, worker, 3, lease=LONG)
    await first.release(QUEUE, worker, [1])
    done = (await first.get(QUEUE, request_id="done"))[0]
    await first.finish(QUEUE, Delivery(done, 1), worker, item("out", rid="done"), sink=SINK)
    await first.close()
    second = await reopened(path)
    states = {rid: (await second.task(QUEUE, rid)).state for rid in ("waits", "held", "done")}
    assert states == {"waits": "queued", "held": "running", "done": "done"}
    assert (await second.get(SINK))[0].data == b"out"
    assert await second.renew(QUEUE, worker, [2], lease=LONG) == [2], "the connection outlives the store's process"
    assert (await one(second, await joined(second, "other"))).item.data == b"waits"
    await second.close()


PUTS_FOR_EVER = """
import asyncio, sys, uuid
from pathlib import Path
from sdwebui_api.queueing.model import NewItem
from sdwebui_api.queueing.stores.sqlite import SqliteStore

async def client(store):
    while True:
        rid = uuid.uuid4().hex
        receipt = await store.put("sd_async", NewItem(rid.encode(), {"requestId": rid}))
        print(receipt.index, rid, flush=True)

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    await asyncio.gather(*(client(store) for _ in range(8)))

asyncio.run(main())
"""


def putting(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PUTS_FOR_EVER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


async def test_nothing_acknowledged_is_lost_by_kill_9(path):
    """Rounds of two processes that put as fast as they can, killed at a random moment."""
    path.parent.mkdir()
    acknowledged: dict[int, bytes] = {}
    for number in range(30):
        if number >= 3 and len(acknowledged) > 20:
            break
        processes = [putting(path) for _ in range(2)]
        for process in processes:
            assert process.stdout is not None and process.stdout.readline(), "it began"
        await asyncio.sleep(random.uniform(0.05, 0.5))
        for process in processes:
            process.kill()
        for process in processes:
            for line in process.communicate()[0].splitlines():
                index, _, rid = line.partition(" ")
                if len(rid) == 32:
                    assert int(index) not in acknowledged
                    acknowledged[int(index)] = rid.encode()
    store = await reopened(path)
    found = {kept.index: kept.data for kept in await store.get(QUEUE, length=10**6)}
    await store.close()
    assert len(acknowledged) > 20
    assert acknowledged.items() <= found.items()


async def test_processes_that_write_at_once_all_get_on(path):
    path.parent.mkdir()
    processes = [putting(path) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline()
    counts = [0] * len(processes)

    def count(number: int) -> None:
        for _ in processes[number].stdout or ():
            counts[number] += 1

    with ThreadPoolExecutor(len(processes)) as pool:
        reading = pool.map(count, range(len(processes)))
        for _ in range(20):  # on a busy machine one of them may have to wait for its share of the time
            await asyncio.sleep(1.5)
            if min(counts) > max(counts) / 20:
                break
        for process in processes:
            process.kill()
        list(reading)
    for process in processes:
        process.communicate()
    assert min(counts) > max(counts) / 20, counts


# -- the writing thread ------------------------------------------------------------------------------


@pytest.fixture
async def transactions(path: Path) -> AsyncIterator[tuple[Writer, list[object]]]:
    """A writer, and one entry for every transaction it has written."""
    path.parent.mkdir()
    written: list[object] = []
    writer = Writer(path, written.append)
    writer.start()
    await writer.do(lambda tx: tx.db.execute("CREATE TABLE t (n INTEGER UNIQUE)"))
    written.clear()
    yield writer, written
    await writer.stop()


def insert(number: int):
    return lambda tx: tx.db.execute("INSERT INTO t VALUES (?)", (number,)).rowcount


def rows(tx: Transaction) -> list[int]:
    return [number for (number,) in tx.db.execute("SELECT n FROM t ORDER BY n")]


async def test_calls_that_wait_share_a_transaction(transactions):
    writer, written = transactions
    await asyncio.gather(*(writer.do(insert(n)) for n in range(200)))
    assert len(written) < 100
    assert await writer.do(rows) == list(range(200))


async def test_a_call_that_fails_takes_no_other_with_it(transactions):
    writer, _ = transactions

    def half(tx: Transaction) -> None:
        tx.db.execute("INSERT INTO t VALUES (100)")
        tx.woken["q"] = 7
        raise ValueError("changed my mind")

    calls = [writer.do(insert(1)), writer.do(half), writer.do(insert(1)), writer.do(insert(2))]
    first, refused, twice, second = await asyncio.gather(*calls, return_exceptions=True)
    assert (first, second) == (1, 1)
    assert isinstance(refused, ValueError)
    assert isinstance(twice, sqlite3.IntegrityError)
    assert await writer.do(rows) == [1, 2]
    assert all("q" not in woken for woken in transactions[1]), "what did not happen is not announced"


async def test_a_cancelled_caller_harms_nobody(transactions):
    writer, _ = transactions
    calls = [asyncio.create_task(writer.do(insert(n))) for n in range(10)]
    await asyncio.sleep(0)
    calls[3].cancel()
    await asyncio.wait(calls)
    assert await writer.do(rows) == list(range(10))


async def test_a_broken_transaction_is_told_to_all_and_survived(transactions):
    writer, _ = transactions

    def lose_the_disk(tx: Transaction) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    calls = [writer.do(insert(1)), writer.do(lose_the_disk), writer.do(insert(2))]
    failed = await asyncio.gather(*calls, return_exceptions=True)
    # They may have gone in transactions of their own; what was answered is there, what was refused is not.
    assert isinstance(failed[1], StoreUnavailable)
    expected = [n for n, result in ((1, failed[0]), (2, failed[2])) if result == 1]
    assert await writer.do(rows) == expected
    assert await writer.do(insert(3)) == 1


# -- failures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"no database at all " * 300, b"SQLite format 3\x00" + b"\xff" * 5000])
async def test_a_file_that_is_no_database(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match=r"queue\.sqlite3"):
        await SqliteStore(path).open()
    assert path.read_bytes() == content


async def test_a_database_of_something_else(path):
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE precious (x)")
    other.close()
    with pytest.raises(StoreUnavailable, match="something else"):
        await SqliteStore(path).open()
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("precious",)]
    other.close()


async def test_a_file_of_a_later_version(path):
    path.parent.mkdir()
    with sqlite3.connect(path) as later:
        later.execute("PRAGMA user_version = 99")
    later.close()
    with pytest.raises(StoreUnavailable, match="99"):
        await SqliteStore(path).open()


async def test_a_sqlite_that_is_too_old(path, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(StoreUnavailable, match=r"too old; 3\.35"):
        await SqliteStore(path).open()


async def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreUnavailable):
        await SqliteStore(tmp_path / "file" / "queue.sqlite3").open()


async def test_a_closed_store_is_unavailable(path):
    store = await reopened(path)
    await store.close()
    await store.close()
    for call in (store.put(QUEUE, item()), store.stats(QUEUE), store.wait(QUEUE, -1, 0)):
        with pytest.raises(StoreUnavailable):
            await call


async def test_a_file_that_was_deleted_is_not_written_to(store, path):
    """What went into a deleted file would be gone at the next start."""
    await put_many(store, 2)
    for file in path.parent.iterdir():
        file.unlink()
    await store.put(QUEUE, item("after"))
    assert await length(store) == 1
    other = await reopened(path)
    assert [kept.data for kept in await other.get(QUEUE, length=5)] == [b"after"]
    await other.close()


async def test_who_waits_for_a_new_file_waits(store, path):
    """Its numbers begin anew; compared with the old ones each would be old news."""
    await put_many(store, 9)
    assert await store.wait(QUEUE, await store.wait(QUEUE, -1, 0), 0.05) == 9
    for file in path.parent.iterdir():
        file.unlink()
    await put_many(store, 2)
    seen = await store.wait(QUEUE, -1, 0)
    assert seen == 2 == await store.wait(QUEUE, seen, 0.05)
    waiting = asyncio.create_task(store.wait(QUEUE, seen, LONG))
    await put_many(store, 1)
    assert await waiting == 3


async def test_large_items_come_a_few_at_a_time(store, monkeypatch):
    monkeypatch.setattr(lite_rows, "MOST_BYTES", 25)
    for number in range(5):
        await store.put(QUEUE, item(f"{number:010}", priority=number % 2))
    assert [kept.index for kept in await store.get(QUEUE, length=5)] == [2, 4, 1]
    taker = await joined(store)
    assert indexes(await store.take(QUEUE, taker, 5, lease=LONG)) == [2, 4, 1]
    other = await joined(store, "other")
    assert indexes(await store.take(QUEUE, other, 5, lease=LONG, index_only=True)) == [3, 5]
    await store.release(QUEUE, taker, [2, 4, 1])
    assert [kept.index for kept in await store.get(QUEUE, length=5, delete=True)] == [2, 4, 1]
    assert await length(store) == 2


async def test_a_process_that_blocks_for_a_while_is_waited_for(store, path):
    await put_many(store, 1)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    put = asyncio.create_task(store.put(QUEUE, item()))
    assert (await store.stats(QUEUE)).length == 1, "reading goes on"
    await asyncio.sleep(0.3)
    assert not put.done()
    blocker.execute("ROLLBACK")
    assert (await asyncio.wait_for(put, 30)).index == 2
    blocker.close()


async def test_a_process_that_blocks_for_ever_is_not(path):
    store = SqliteStore(path, patience=0.3)
    await store.open()
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match="locked"):
        await store.put(QUEUE, item())
    assert time.monotonic() - begun < PATIENCE, "its own patience, not what a store has unless told"
    blocker.close()
    assert (await store.put(QUEUE, item())).index == 1
    await store.close()


FILLS_THE_DISK = """
import asyncio, json, resource, sys, uuid
from pathlib import Path
from sdwebui_api.queueing.model import NewItem
from sdwebui_api.queueing.model import Delivery
from sdwebui_api.queueing.store import StoreUnavailable
from sdwebui_api.queueing.stores.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    item = lambda: NewItem(b"x" * 20_000, {"requestId": uuid.uuid4().hex})
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    acknowledged, message = [], ""
    while not message:
        try:
            acknowledged.append((await store.put("sd_async", item())).index)
        except StoreUnavailable as error:
            message = str(error)
    readable = (await store.stats("sd_async")).length
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    after = (await store.put("sd_async", item())).index
    await store.close()
    print(json.dumps([acknowledged, message, readable, after]))

asyncio.run(main())
"""


async def test_a_full_disk_is_told_and_survived(path):
    path.parent.mkdir()
    answer = subprocess.run(
        [sys.executable, "-c", FILLS_THE_DISK, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    acknowledged, message, readable, after = json.loads(answer.stdout)
    assert "queue.sqlite3" in message
    assert readable == len(acknowledged) > 3
    store = await reopened(path)
    assert [kept.index for kept in await store.get(QUEUE, length=10**6)] == [*acknowledged, after]
    await store.close()


async def test_a_flood_leaves_no_large_file(path):
    store = await reopened(path)
    for _ in range(40):
        await store.put(QUEUE, item(b"x" * 1_000_000))
    await store.truncate(QUEUE, 1000)
    await store.sweep(retention=0, lease=60)
    assert (await store.put(QUEUE, item("after"))).index == 41
    await store.close()
    assert path.stat().st_size < 20_000_000


# -- the tables keep in step -------------------------------------------------------------------------


async def test_nothing_is_left_behind(path):
    """After much coming and going and a sweep, every table is as empty as the queue."""
    store = SqliteStore(path, remember=0.0)
    await store.open()
    await put_many(store, 30, color="red")
    for group in ("a", "b"):
        taker = await joined(store, group=group)
        await store.take(QUEUE, taker, 20, lease=LONG)
        await store.commit(QUEUE, group, range(1, 11))
    worker = await joined(store, "w")
    delivery = await one(store, worker)
    await store.finish(QUEUE, delivery, worker, item("out", color="red"), sink=SINK, dead=item(), callback=item())
    await store.truncate(QUEUE, 100)
    await store.truncate("sd_async/callbacks", 100)
    for user, group in (("u", "a"), ("u", "b")):
        await store.leave(QUEUE, await joined(store, user, group))
    await store.leave(QUEUE, worker)
    await asyncio.sleep(0.05)
    await store.sweep(retention=0.01, lease=0.01)
    await store.close()
    db = sqlite3.connect(path)
    tables = ("items", "payloads", "item_tags", "backlog", "entries", "consumers", "groups")
    left = {table: db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables}
    lengths = db.execute("SELECT DISTINCT length FROM queues").fetchall()
    db.close()
    assert left == dict.fromkeys(tables, 0)
    assert lengths == [(0,)]
