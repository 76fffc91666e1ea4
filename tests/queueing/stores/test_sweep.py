"""sweep: what is forgotten, and what never is."""

from __future__ import annotations

import asyncio

import pytest

from sdwebui_api.queueing.store import Replaced
from tests.queueing.stores.support import CALLBACKS, LONG, QUEUE, REAR, SINK, item, joined, length, one, put_many

pytestmark = pytest.mark.anyio
KEEP = 3600.0
AGE = 0.3
OLD = 2.0
"""An age that nothing reaches within a call or two, even on a machine that stalls."""


async def finished(store, rid: str = "r", **more) -> None:
    await store.put(QUEUE, item(rid=rid))
    worker = await joined(store)
    delivery = await one(store, worker)
    assert await store.finish(QUEUE, delivery, worker, item("out", rid=rid), sink=SINK, **more)


async def test_the_young_are_kept(store):
    await finished(store, dead=item(rid="r"))
    await store.sweep(retention=KEEP, lease=KEEP)
    assert await length(store, SINK) == await length(store, REAR) == 1
    assert (await store.task(QUEUE, "r")).state == "done"
    assert len((await store.stats(QUEUE)).consumers) == 1


async def test_old_results_records_and_request_ids_are_forgotten(store):
    await finished(store, dead=item(rid="r"), callback=item(rid="r"))
    await asyncio.sleep(OLD + 0.1)
    await put_many(store, 1, SINK)
    await store.sweep(retention=OLD, lease=KEEP)
    assert await store.task(QUEUE, "r") is None
    assert indexes_of(await store.get(SINK, length=9)) == [2]
    assert await length(store, REAR) == 0
    assert await length(store, CALLBACKS) == 1, "what must still be sent waits"
    assert (await store.put(QUEUE, item(rid="r"))).fresh
    assert (await store.put(SINK, item(rid="r"))).fresh


def indexes_of(items) -> list[int]:
    return [kept.index for kept in items]


async def test_a_request_can_be_made_anew_once_it_is_forgotten(store):
    await finished(store)
    await store.get(SINK, delete=True)
    await asyncio.sleep(AGE + 0.1)
    await store.sweep(retention=AGE, lease=KEEP)
    await finished(store)
    assert [kept.data for kept in await store.get(SINK, length=9)] == [b"out"]
    assert (await store.task(QUEUE, "r")).result == b"out"


async def test_requests_that_wait_are_never_forgotten(store):
    waiting = (await store.put(QUEUE, item(rid="waits"))).index
    held = (await store.put(QUEUE, item(rid="runs"))).index
    await asyncio.sleep(AGE)
    await store.sweep(retention=0.05, lease=KEEP)
    assert await length(store) == 2
    for rid, index in [("waits", waiting), ("runs", held)]:
        again = await store.put(QUEUE, item(rid=rid))
        assert (again.index, again.fresh) == (index, False)
    assert (await store.task(QUEUE, "waits")).state == "queued"


async def test_old_results_go_even_when_somebody_holds_them(store):
    await put_many(store, 2, SINK)
    watcher = await joined(store, queue=SINK, group="eas")
    await one(store, watcher, SINK)
    await asyncio.sleep(AGE)
    await store.sweep(retention=AGE / 2, lease=KEEP)
    assert await length(store, SINK) == 0
    assert await store.renew(SINK, watcher, [1], lease=LONG) == []


async def test_many_are_swept_at_once(store):
    await asyncio.gather(*(store.put(SINK, item()) for _ in range(2500)))
    await asyncio.sleep(AGE)
    await store.sweep(retention=AGE / 2, lease=KEEP)
    assert await length(store, SINK) == 0


async def test_a_silent_consumer_counts_as_gone(store_factory):
    store = await store_factory(remember=KEEP)
    silent, renewed = await joined(store, "silent"), await joined(store, "renewed")
    await asyncio.sleep(OLD + 0.1)
    await store.renew(QUEUE, renewed, [], lease=LONG)
    await store.sweep(retention=KEEP, lease=OLD)
    found = {stats.user: stats.status for stats in (await store.stats(QUEUE)).consumers}
    assert found == {"silent": "Complete", "renewed": "Running"}
    await store.renew(QUEUE, silent, [], lease=LONG)
    found = {stats.user: stats.status for stats in (await store.stats(QUEUE)).consumers}
    assert found["silent"] == "Running", "it was only slow"


async def test_consumers_who_left_are_forgotten_after_a_while(store_factory):
    store = await store_factory(remember=OLD)
    gone, silent, renewed = [await joined(store, name, name) for name in ("gone", "silent", "renewed")]
    await store.leave(QUEUE, gone)
    await store.sweep(retention=KEEP, lease=0.2)
    assert sorted((await store.stats(QUEUE)).groups) == ["gone", "renewed", "silent"]
    await asyncio.sleep(OLD + 0.5)
    await store.renew(QUEUE, renewed, [], lease=LONG)
    await store.sweep(retention=KEEP, lease=0.2)
    stats = await store.stats(QUEUE)
    assert stats.groups == ("renewed",)
    assert [found.user for found in stats.consumers] == ["renewed"]
    with pytest.raises(Replaced):
        await store.take(QUEUE, silent, 1, lease=LONG)


async def test_an_abandoned_group_keeps_nothing(store_factory):
    store = await store_factory(remember=0.2)
    await put_many(store, 3)
    abandoned, alive = await joined(store, group="abandoned"), await joined(store, group="alive")
    await store.leave(QUEUE, abandoned)
    await store.take(QUEUE, alive, 2, lease=LONG)
    await store.commit(QUEUE, "alive", [1, 2])
    assert await length(store) == 3
    await asyncio.sleep(0.4)
    await store.sweep(retention=KEEP, lease=KEEP)
    assert await length(store) == 1
    assert (await store.stats(QUEUE)).groups == ("alive",)
    assert (await store.stats(QUEUE)).waiting == 1


async def test_groups_that_are_abandoned_one_after_the_other_keep_nothing(store_factory):
    store = await store_factory(remember=0.2)
    await put_many(store, 2)
    first, second = await joined(store, group="first"), await joined(store, group="second")
    await store.commit(QUEUE, "first", [1])
    await store.leave(QUEUE, first)
    await asyncio.sleep(0.4)
    await store.renew(QUEUE, second, [], lease=LONG)
    await store.sweep(retention=KEEP, lease=KEEP)
    assert await length(store) == 2, "the second group has not seen the first item"
    await store.leave(QUEUE, second)
    await asyncio.sleep(0.4)
    await store.sweep(retention=KEEP, lease=KEEP)
    assert indexes_of(await store.get(QUEUE, length=9)) == [2]


async def test_a_forgotten_group_begins_anew(store_factory):
    store = await store_factory(remember=0.2)
    await put_many(store, 2)
    taker = await joined(store, "u", "g")
    await store.take(QUEUE, taker, 2, lease=LONG)
    await store.leave(QUEUE, taker)
    await asyncio.sleep(0.4)
    await store.sweep(retention=KEEP, lease=KEEP)
    found = await store.take(QUEUE, await joined(store, "u", "g"), 9, lease=LONG)
    assert [(d.item.index, d.count) for d in found] == [(1, 1), (2, 1)]


async def test_a_consumer_with_leases_in_the_future_keeps_them(store_factory):
    """A dispatcher parks items by long leases; being silent meanwhile hands none of them to others."""
    store = await store_factory(remember=0.1)
    await put_many(store, 1)
    parks = await joined(store, "parks")
    held = await one(store, parks)
    await asyncio.sleep(0.4)
    await store.sweep(retention=KEEP, lease=0.1)
    assert await store.take(QUEUE, await joined(store, "other"), 9, lease=LONG) == []
    assert await store.renew(QUEUE, parks, [held.item.index], lease=LONG) == [held.item.index]


async def test_sweeping_nothing(store):
    await store.sweep(retention=0, lease=0)
    assert await put_many(store, 1) == [1]


async def test_indexes_go_on_after_everything_was_forgotten(store_factory):
    store = await store_factory(remember=0.05)
    await put_many(store, 2, SINK)
    await asyncio.sleep(0.2)
    await store.sweep(retention=0.1, lease=0.05)
    await store.sweep(retention=0.1, lease=0.05)
    assert await put_many(store, 1, SINK) == [3]
