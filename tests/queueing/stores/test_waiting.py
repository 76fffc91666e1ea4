"""wait: woken by whatever makes something takeable, in this process and from others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from sdwebui_api.queueing.store import QueueStore
from tests.queueing.stores.support import LONG, QUEUE, SINK, item, joined, one, put_many

pytestmark = pytest.mark.anyio
SOON = 20.0
"""Seconds; much more than the 50 ms promised, for machines that stall, and much less than the timeout below."""
TIMEOUT = 40.0
WAKING = ("put", "release", "leave", "replace", "reject", "end", "commit", "finish", "delete", "truncate")


async def woken_by(waiting: QueueStore, act: Callable[[], Awaitable[object]], queue: str = QUEUE) -> None:
    """Asserts that `act` ends a wait that had begun before it."""
    seen = await waiting.wait(queue, -1, 0)
    waiter = asyncio.create_task(waiting.wait(queue, seen, TIMEOUT))
    await asyncio.sleep(0.1)
    assert not waiter.done(), "woken by nothing"
    begun = time.monotonic()
    await act()
    assert await waiter != seen
    assert time.monotonic() - begun < SOON


async def test_the_number_is_stable_while_nothing_happens(store):
    assert await store.wait(QUEUE, -1, 0) == await store.wait(QUEUE, -1, 0)
    await put_many(store, 1)
    seen = await store.wait(QUEUE, -1, 0)
    assert await store.wait(QUEUE, seen, 0) == seen
    begun = time.monotonic()
    assert await store.wait(QUEUE, seen, 0.3) == seen
    assert 0.25 <= time.monotonic() - begun < 0.3 + SOON


async def test_an_old_number_returns_at_once(store):
    seen = await store.wait(QUEUE, -1, 0)
    await put_many(store, 1)
    begun = time.monotonic()
    assert await store.wait(QUEUE, seen, TIMEOUT) != seen
    assert time.monotonic() - begun < SOON


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same process", "other process"])
@pytest.mark.parametrize("what", WAKING)
async def test_what_wakes(store_factory, what, elsewhere):
    store = await store_factory()
    acting = await store_factory() if elsewhere else store
    await put_many(store, 1)
    holder = await joined(acting, "holder")
    held = await one(acting, holder)
    acts: dict[str, Callable[[], Awaitable[object]]] = {
        "put": lambda: acting.put(QUEUE, item()),
        "release": lambda: acting.release(QUEUE, holder, [held.item.index]),
        "leave": lambda: acting.leave(QUEUE, holder),
        "replace": lambda: joined(acting, "holder"),
        "reject": lambda: acting.reject(QUEUE, holder.group, [held.item.index], counts=True),
        "end": lambda: acting.end(QUEUE),
        "commit": lambda: acting.commit(QUEUE, holder.group, [held.item.index]),
        "finish": lambda: acting.finish(QUEUE, held, holder, None, sink=SINK),
        "delete": lambda: acting.delete(QUEUE, [held.item.index]),
        "truncate": lambda: acting.truncate(QUEUE, held.item.index + 1),
    }
    await woken_by(store, acts[what])


async def test_a_lease_that_runs_out_wakes(store):
    await put_many(store, 1)
    taker, begun = await joined(store), time.monotonic()
    await one(store, taker, lease=2.0)
    seen = await store.wait(QUEUE, -1, 0)
    assert await store.wait(QUEUE, seen, TIMEOUT) != seen
    assert 1.9 <= time.monotonic() - begun < 2.0 + SOON


async def test_a_result_wakes_the_sink(store):
    await store.put(QUEUE, item(rid="r"))
    worker = await joined(store)
    held = await one(store, worker)
    await woken_by(store, lambda: store.finish(QUEUE, held, worker, item(rid="r"), sink=SINK), SINK)


async def test_other_queues_do_not_wake(store):
    seen = await store.wait(QUEUE, -1, 0)
    waiter = asyncio.create_task(store.wait(QUEUE, seen, 0.5))
    await asyncio.sleep(0.05)
    await put_many(store, 3, "other")
    assert await waiter == seen


async def test_a_put_that_adds_nothing_does_not_wake(store):
    await store.put(QUEUE, item(rid="r"))
    seen = await store.wait(QUEUE, -1, 0)
    await store.put(QUEUE, item(rid="r"))
    assert await store.wait(QUEUE, seen, 0.2) == seen


async def test_many_wait_at_once(store):
    seen = await store.wait(QUEUE, -1, 0)
    waiters = [asyncio.create_task(store.wait(QUEUE, seen, TIMEOUT)) for _ in range(50)]
    await asyncio.sleep(0.1)
    await put_many(store, 1)
    assert seen not in await asyncio.wait_for(asyncio.gather(*waiters), SOON)


async def test_nothing_is_missed_between_take_and_wait(store_factory):
    """The loop that watchers run, against puts from another process as fast as they go."""
    reading, writing = await store_factory(), await store_factory()
    taker = await joined(reading, auto_commit=True)
    found: list[bytes] = []

    async def watch() -> None:
        while len(found) < 150:
            seen = await reading.wait(QUEUE, -1, 0)
            got = await reading.take(QUEUE, taker, 100, lease=LONG)
            found.extend(delivery.item.data for delivery in got)
            if not got:
                assert await reading.wait(QUEUE, seen, TIMEOUT) != seen

    watcher = asyncio.create_task(watch())
    for n in range(150):
        await writing.put(QUEUE, item(str(n)))
        if n % 10 == 0:
            await asyncio.sleep(0.01)
    await asyncio.wait_for(watcher, 120)
    assert found == [str(n).encode() for n in range(150)]


async def test_a_cancelled_wait_leaves_the_store_well(store):
    seen = await store.wait(QUEUE, -1, 0)
    waiter = asyncio.create_task(store.wait(QUEUE, seen, TIMEOUT))
    await asyncio.sleep(0.05)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await woken_by(store, lambda: store.put(QUEUE, item()))
