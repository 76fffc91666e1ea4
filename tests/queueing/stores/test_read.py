"""get, delete, truncate, search, count, stats."""

from __future__ import annotations

import asyncio
import time

import pytest

from sdwebui_api.queueing.model import HIGH, LOW
from tests.queueing.stores.support import (
    LONG,
    QUEUE,
    WORKERS,
    consumer,
    indexes,
    item,
    joined,
    length,
    one,
    put_many,
)

pytestmark = pytest.mark.anyio


def data(items) -> list[bytes]:
    return [kept.data for kept in items]


# -- get ---------------------------------------------------------------------------------------------


async def test_get_from_the_head_by_priority(store):
    assert await store.get(QUEUE, length=5) == []
    for name, priority in [("a", LOW), ("b", HIGH), ("c", LOW)]:
        await store.put(QUEUE, item(name, priority=priority))
    assert data(await store.get(QUEUE)) == [b"b"]
    assert data(await store.get(QUEUE, length=5)) == [b"b", b"a", b"c"]
    assert await length(store) == 3


async def test_get_from_an_index_goes_by_index(store):
    for name, priority in [("a", LOW), ("b", LOW), ("c", HIGH), ("d", LOW)]:
        await store.put(QUEUE, item(name, priority=priority))
    assert data(await store.get(QUEUE, start=2)) == [b"b"]
    assert data(await store.get(QUEUE, start=2, length=5)) == [b"b", b"c", b"d"]
    await store.delete(QUEUE, [2])
    assert data(await store.get(QUEUE, start=2)) == [b"c"], "the next one when it is gone"
    assert await store.get(QUEUE, start=5) == []


async def test_get_the_newest(store):
    await store.put(QUEUE, item("a", priority=HIGH))
    await store.put(QUEUE, item("b", color="red"))
    await store.put(QUEUE, item("c"))
    assert data(await store.get(QUEUE, start=-1, length=5)) == [b"c"]
    assert data(await store.get(QUEUE, start=-1, tags={"color": "red"})) == [b"b"]


async def test_get_by_request_id_and_tags(store):
    for n in range(4):
        await store.put(QUEUE, item(str(n), rid=f"r{n}", color="red" if n % 2 else "blue", n=str(n)))
    assert data(await store.get(QUEUE, request_id="r2", length=5)) == [b"2"]
    assert data(await store.get(QUEUE, tags={"requestId": "r3"}, length=5)) == [b"3"]
    assert data(await store.get(QUEUE, tags={"color": "red"}, length=5)) == [b"1", b"3"]
    assert data(await store.get(QUEUE, tags={"color": "red", "n": "3"}, length=5)) == [b"3"]
    assert data(await store.get(QUEUE, start=3, tags={"color": "blue"}, length=5)) == [b"2"]
    assert await store.get(QUEUE, request_id="r2", tags={"color": "red"}) == []
    assert await store.get(QUEUE, request_id="unknown") == []
    assert await store.get(QUEUE, tags={"unknown": "red"}) == []


async def test_whose_an_item_is_can_be_asked_for(store):
    for user in ("ann", "bob"):
        await store.put(QUEUE, item(user, _user_=user))
    assert data(await store.get(QUEUE, tags={"_user_": "bob"}, length=5, delete=True)) == [b"bob"]
    assert [await store.count(QUEUE, tags={"_user_": user}) for user in ("ann", "bob")] == [1, 0]


async def test_get_with_delete(store):
    await put_many(store, 3)
    assert data(await store.get(QUEUE, length=2, delete=True)) == [b"0", b"1"]
    assert await length(store) == 1
    assert data(await store.get(QUEUE, length=2, delete=True)) == [b"2"]
    assert await store.get(QUEUE, length=2, delete=True) == []


async def test_gets_with_delete_at_once_never_share(store_factory):
    stores = [await store_factory(), await store_factory()]
    await put_many(stores[0], 30)
    parts = await asyncio.gather(*(stores[n % 2].get(QUEUE, length=4, delete=True) for n in range(12)))
    found = [kept.index for part in parts for kept in part]
    assert sorted(found) == list(range(1, 31))


async def test_get_leaves_out_what_is_pending_in_the_group(store):
    await store.put(QUEUE, item("0", rid="r0"))
    await put_many(store, 1)
    held = await one(store, await joined(store, group="g"))
    assert held.item.request_id == "r0"
    assert data(await store.get(QUEUE, length=5, group="g")) == [b"0"]
    assert indexes_of(await store.get(QUEUE, length=5, group="g")) == [2]
    assert indexes_of(await store.get(QUEUE, length=5, group="other")) == [1, 2]
    assert indexes_of(await store.get(QUEUE, length=5)) == [1, 2]
    assert indexes_of(await store.get(QUEUE, request_id="r0", group="g")) == [1]
    assert indexes_of(await store.get(QUEUE, start=1, group="g")) == [1], "the exact index"
    assert indexes_of(await store.get(QUEUE, start=1, length=2, group="g")) == [2]
    assert indexes_of(await store.get(QUEUE, start=-1, group="g")) == [2]


def indexes_of(items) -> list[int]:
    return [kept.index for kept in items]


async def test_get_with_delete_takes_it_from_whoever_holds_it(store):
    await put_many(store, 1)
    holder = await joined(store)
    await one(store, holder)
    assert data(await store.get(QUEUE, start=1, delete=True, group=holder.group)) == [b"0"]
    assert await store.renew(QUEUE, holder, [1], lease=LONG) == []
    assert await store.take(QUEUE, holder, 1, lease=LONG) == []


async def test_get_leaves_groups_alone(store):
    await put_many(store, 2)
    await store.get(QUEUE, length=2)
    taker = await joined(store)
    assert [d.count for d in await store.take(QUEUE, taker, 9, lease=LONG)] == [1, 1]


# -- delete and truncate -----------------------------------------------------------------------------


async def test_delete_removes_for_all(store):
    await put_many(store, 4)
    a, b = await joined(store, group="a"), await joined(store, group="b")
    await store.take(QUEUE, a, 2, lease=LONG)
    removed = await store.delete(QUEUE, [2, 3, 99])
    assert [(kept.index, kept.data) for kept in removed] == [(2, b""), (3, b"")]
    assert await store.delete(QUEUE, [2, 3]) == []
    assert await length(store) == 2
    assert indexes(await store.take(QUEUE, a, 9, lease=LONG)) == [4]
    assert indexes(await store.take(QUEUE, b, 9, lease=LONG)) == [1, 4]
    assert await store.delete("never-named", [1]) == []


async def test_truncate_removes_below(store):
    for n, priority in enumerate([LOW, HIGH, LOW, HIGH, LOW]):
        await store.put(QUEUE, item(str(n), priority=priority))
    await store.delete(QUEUE, [1])
    holder = await joined(store)
    await one(store, holder)
    assert await store.truncate(QUEUE, 4) == 2
    assert await length(store) == 2
    assert await store.truncate(QUEUE, 4) == 0
    assert indexes(await store.take(QUEUE, holder, 9, lease=LONG)) == [4, 5]
    assert await store.truncate("never-named", 9) == 0


async def test_truncate_past_the_end(store):
    await put_many(store, 3)
    stats = await store.stats(QUEUE)
    assert await store.truncate(QUEUE, stats.last_index + 1) == 3
    after = await store.stats(QUEUE)
    assert (after.length, after.waiting, after.first_index, after.last_index) == (0, 0, None, 3)
    assert await store.take(QUEUE, await joined(store), 9, lease=LONG) == []


# -- search ------------------------------------------------------------------------------------------


async def test_search_counts_what_comes_before(store):
    for n, priority in enumerate([LOW, LOW, HIGH, LOW, HIGH]):
        await store.put(QUEUE, item(str(n), priority=priority))

    async def ahead(index: int) -> int:
        state = await store.search(QUEUE, index, group="eas", service_group=WORKERS)
        assert (state.pending, state.consumer_id) == (False, "")
        return state.ahead

    assert [await ahead(index) for index in range(1, 6)] == [2, 3, 0, 4, 1]
    worker = await joined(store)
    await one(store, worker)
    assert [await ahead(index) for index in (1, 2, 4, 5)] == [1, 2, 3, 0]
    await store.leave(QUEUE, worker)
    assert await ahead(1) == 2


async def test_search_finds_the_worker_for_strangers(store):
    await put_many(store, 1)
    worker = await joined(store, "worker-0")
    await one(store, worker)
    state = await store.search(QUEUE, 1, group="eas", service_group=WORKERS)
    assert (state.pending, state.consumer_id, state.ahead) == (True, f"{WORKERS}.worker-0", 0)


async def test_search_looks_at_the_own_group_when_it_has_consumers(store):
    await put_many(store, 2)
    worker, watcher = await joined(store, "w"), await joined(store, "me", "eas")
    await store.take(QUEUE, worker, 2, lease=LONG)
    await one(store, watcher)
    first = await store.search(QUEUE, 1, group="eas", service_group=WORKERS)
    second = await store.search(QUEUE, 2, group="eas", service_group=WORKERS)
    assert (first.pending, first.consumer_id) == (True, "eas.me")
    assert (second.pending, second.consumer_id, second.ahead) == (False, "", 0)


async def test_search_of_what_is_gone(store):
    await put_many(store, 2)
    await store.delete(QUEUE, [1])
    for index in (1, 3, 0):
        assert await store.search(QUEUE, index, group="eas", service_group=WORKERS) is None
    assert await store.search("never-named", 1, group="eas", service_group=WORKERS) is None


async def test_an_expired_lease_is_not_pending(store):
    await put_many(store, 1)
    await one(store, await joined(store), lease=0.1)
    await asyncio.sleep(0.2)
    assert not (await store.search(QUEUE, 1, group="eas", service_group=WORKERS)).pending
    assert (await store.stats(QUEUE)).waiting == 1


# -- count and stats ---------------------------------------------------------------------------------


async def test_count(store):
    assert await store.count(QUEUE) == 0
    for n, priority in enumerate([LOW, HIGH, LOW, HIGH, HIGH]):
        await store.put(QUEUE, item(priority=priority, rid=f"r{n}", color="red" if n < 2 else "blue"))
    await one(store, await joined(store))
    assert await store.count(QUEUE) == 5
    assert await store.count(QUEUE, priority=LOW) == 2
    assert await store.count(QUEUE, priority=HIGH) == 3
    assert await store.count(QUEUE, tags={"color": "blue"}) == 3
    assert await store.count(QUEUE, priority=HIGH, tags={"color": "red"}) == 1
    assert await store.count(QUEUE, tags={"requestId": "r4"}) == 1
    assert await store.count(QUEUE, tags={"color": "green"}) == 0


async def test_stats_of_a_queue_that_never_held_anything(store):
    stats = await store.stats(QUEUE)
    assert (stats.length, stats.waiting, stats.first_index, stats.last_index) == (0, 0, None, None)
    assert (stats.oldest_seconds, stats.consumers, stats.groups, stats.ended) == (0, (), (), False)


async def test_stats_of_the_items(store):
    await store.put(QUEUE, item())
    await asyncio.sleep(0.1)
    await store.put(QUEUE, item(priority=HIGH))
    await store.put(QUEUE, item())
    await store.delete(QUEUE, [3])
    await one(store, await joined(store))
    stats = await store.stats(QUEUE)
    assert (stats.length, stats.waiting, stats.first_index, stats.last_index) == (2, 1, 1, 3)
    assert 0.1 <= stats.oldest_seconds < 60


async def test_an_item_held_in_two_groups_is_one_that_does_not_wait(store):
    await put_many(store, 3)
    for group in ("a", "b"):
        await one(store, await joined(store, group=group))
    assert (await store.stats(QUEUE)).waiting == 2


async def test_stats_of_the_consumers(store):
    await put_many(store, 3)
    first = await joined(store, "u1", "g1", window=5)
    await store.take(QUEUE, first, 2, lease=LONG)
    await joined(store, "u2", "g2", window=1, auto_commit=True, tags={"foo": "bar"})
    stats = await store.stats(QUEUE)
    assert sorted(stats.groups) == ["g1", "g2"]
    one_, two = sorted(stats.consumers, key=lambda found: found.user)
    assert (one_.group, one_.user, one_.index, one_.pending, one_.status) == ("g1", "u1", 2, 2, "Running")
    assert (one_.window, one_.auto_commit, one_.tags) == (5, False, {})
    assert (two.group, two.user, two.index, two.pending, two.status) == ("g2", "u2", 0, 0, "Running")
    assert (two.window, two.auto_commit, two.tags) == (1, True, {"foo": "bar"})
    assert 0 <= one_.idle_seconds < 60
    assert (await store.stats(QUEUE, consumers=False)).consumers == ()


async def test_a_replaced_connection_is_listed_once(store):
    await joined(store, "u", window=1)
    await joined(store, "u", window=7)
    (found,) = (await store.stats(QUEUE)).consumers
    assert found.window == 7


async def test_the_status_of_those_who_left(store):
    await put_many(store, 1)
    leaves_work, done = await joined(store, "leaves-work"), await joined(store, "done")
    await one(store, leaves_work)
    await store.leave(QUEUE, leaves_work)
    await store.leave(QUEUE, done)
    found = {stats.user: (stats.status, stats.pending) for stats in (await store.stats(QUEUE)).consumers}
    assert found == {"leaves-work": ("Leaving", 0), "done": ("Complete", 0)}
    taker = await joined(store, "taker")
    await one(store, taker)
    await store.commit(QUEUE, taker.group, [1])
    found = {stats.user: stats.status for stats in (await store.stats(QUEUE)).consumers}
    assert found == {"leaves-work": "Complete", "done": "Complete", "taker": "Running"}


@pytest.mark.parametrize("index", [0, -7, 2**53 + 1, 2**63 - 1, 2**63, 2**70])
async def test_numbers_that_are_no_index(store, index):
    """Clients may send any integer; it finds nothing, and harms nothing."""
    await put_many(store, 2)
    taker = await joined(store)
    await store.take(QUEUE, taker, 1, lease=LONG)
    await store.commit(QUEUE, taker.group, [index])
    await store.release(QUEUE, taker, [index])
    assert await store.reject(QUEUE, taker.group, [index], counts=True) == []
    assert await store.renew(QUEUE, taker, [index], lease=LONG) == []
    assert await store.delete(QUEUE, [index]) == []
    assert await store.search(QUEUE, index, group="eas", service_group=WORKERS) is None
    assert indexes_of(await store.get(QUEUE, start=index)) == ([1] if index == 0 else [2] if index < 0 else [])
    late = await joined(store, "late", start=index)
    assert indexes(await store.take(QUEUE, late, 9, lease=LONG)) == ([2] if index == 0 else [])
    assert await store.truncate(QUEUE, index) == (2 if index > 0 else 0)


async def test_reading_makes_nothing(store):
    await store.leave(QUEUE, consumer())
    await store.release(QUEUE, consumer(), [1])
    assert (await store.stats(QUEUE)).groups == ()


@pytest.mark.slow
async def test_reading_stays_cheap_with_a_long_backlog(store):
    """Ratios against the same calls on a short queue, with much slack: a scan of the backlog would cost 100 times."""
    for start in range(0, 20_000, 500):
        await asyncio.gather(*(store.put("long", item(n=str(n), c="x")) for n in range(start, start + 500)))
    await put_many(store, 10, "short", n="1", c="x")

    async def seconds(queue: str) -> float:
        taker = await joined(store, queue=queue, window=99)
        calls = (
            lambda: store.stats(queue),
            lambda: store.get(queue, tags={"n": "1"}),
            lambda: store.get(queue, tags={"c": "x"}),
            lambda: store.get(queue, start=-1),
            lambda: store.put(queue, item()),
            lambda: store.take(queue, taker, 1, lease=LONG),
        )
        begun = time.perf_counter()
        for _ in range(8):
            for call in calls:
                await call()
        return time.perf_counter() - begun

    await seconds("short")
    rounds = [(await seconds("short"), await seconds("long")) for _ in range(5)]
    short, long = (min(found) for found in zip(*rounds, strict=True))  # the least that the machine's other work added
    assert long < 5 * short + 0.1
