"""finish: result, dead letter, callback and task record in one transaction."""

from __future__ import annotations

import asyncio

import pytest

from sdwebui_api.queueing.store import QueueFull
from tests.queueing.stores.support import (
    CALLBACKS,
    LONG,
    QUEUE,
    REAR,
    SINK,
    item,
    joined,
    length,
    one,
    put_many,
)

pytestmark = pytest.mark.anyio


async def test_the_result_is_written_and_the_item_leaves(store):
    await store.put(QUEUE, item("in", rid="r", task_id="t"))
    worker = await joined(store)
    delivery = await one(store, worker)
    assert await store.finish(QUEUE, delivery, worker, item("out", rid="r", task_id="t"), sink=SINK)
    assert await length(store) == 0
    (result,) = await store.get(SINK)
    assert (result.data, result.request_id, result.tags["task_id"]) == (b"out", "r", "t")
    assert await length(store, REAR) == await length(store, CALLBACKS) == 0


async def test_dead_letter_and_callback_go_with_it(store):
    await store.put(QUEUE, item("in", rid="r"))
    worker = await joined(store)
    delivery = await one(store, worker)
    dead = item("in", rid="r", deadReason="tried 1 time")
    call = item("out", rid="r", url="http://x")
    result = item("out", rid="r", lastCode="500")
    done = await store.finish(QUEUE, delivery, worker, result, sink=SINK, failed=True, dead=dead, callback=call)
    assert done
    assert [kept.tags for kept in await store.get(REAR, length=5)] == [dead.tags]
    assert [kept.tags for kept in await store.get(CALLBACKS, length=5)] == [call.tags]
    assert [kept.tags for kept in await store.get(SINK, length=5)] == [result.tags]


async def test_without_a_result_the_sink_stays_empty(store):
    await put_many(store, 1)
    worker = await joined(store)
    assert await store.finish(QUEUE, await one(store, worker), worker, None, sink=SINK)
    assert await length(store) == await length(store, SINK) == 0


async def test_only_the_first_finish_counts(store):
    await store.put(QUEUE, item(rid="r"))
    worker = await joined(store)
    delivery = await one(store, worker)
    assert await store.finish(QUEUE, delivery, worker, item("1", rid="r"), sink=SINK)
    again = await store.finish(QUEUE, delivery, worker, item("2", rid="r"), sink=SINK, dead=item(rid="r"))
    assert not again
    assert [kept.data for kept in await store.get(SINK, length=9)] == [b"1"]
    assert await length(store, REAR) == 0


async def test_of_two_workers_the_first_wins_even_without_the_lease(store):
    await store.put(QUEUE, item(rid="r"))
    slow, quick = await joined(store, "slow"), await joined(store, "quick")
    first = await one(store, slow, lease=0.1)
    await asyncio.sleep(0.2)
    second = await one(store, quick)
    assert await store.finish(QUEUE, first, slow, item("slow", rid="r"), sink=SINK)
    assert not await store.finish(QUEUE, second, quick, item("quick", rid="r"), sink=SINK)
    assert [kept.data for kept in await store.get(SINK, length=9)] == [b"slow"]
    assert await store.renew(QUEUE, quick, [second.item.index], lease=LONG) == []


async def test_finishes_at_once_write_one_result(store_factory):
    stores = [await store_factory(), await store_factory()]
    await stores[0].put(QUEUE, item(rid="r"))
    worker = await joined(stores[0])
    delivery = await one(stores[0], worker)
    calls = (
        stores[n % 2].finish(QUEUE, delivery, worker, item(str(n), rid="r"), sink=SINK, callback=item(rid="r"))
        for n in range(10)
    )
    assert sum(await asyncio.gather(*calls)) == 1
    assert await length(stores[0], SINK) == await length(stores[0], CALLBACKS) == 1


async def test_a_replaced_worker_may_finish(store):
    await store.put(QUEUE, item(rid="r"))
    old = await joined(store, "u")
    delivery = await one(store, old)
    await joined(store, "u")
    assert await store.finish(QUEUE, delivery, old, item("old", rid="r"), sink=SINK)
    assert await length(store) == 0


async def test_what_a_user_deleted_gets_no_result(store):
    (index,) = await put_many(store, 1)
    worker = await joined(store)
    delivery = await one(store, worker)
    await store.delete(QUEUE, [index])
    assert not await store.finish(QUEUE, delivery, worker, item(rid="r"), sink=SINK)
    assert await length(store, SINK) == 0


async def test_a_result_that_was_written_before_is_not_written_again(store):
    """However it came into the sink, and also after it was read."""
    await store.put(SINK, item("before", rid="r"))
    await store.get(SINK, request_id="r", delete=True)
    await store.put(QUEUE, item(rid="r"))
    worker = await joined(store)
    assert await store.finish(QUEUE, await one(store, worker), worker, item("again", rid="r"), sink=SINK)
    assert await length(store) == await length(store, SINK) == 0


async def test_a_full_sink_keeps_the_item_with_the_worker(store):
    await store.put(QUEUE, item(rid="r"))
    await put_many(store, 2, SINK)
    worker, other = await joined(store), await joined(store, "other")
    delivery = await one(store, worker)
    result, dead = item("out", rid="r"), item(rid="r")
    with pytest.raises(QueueFull):
        await store.finish(QUEUE, delivery, worker, result, sink=SINK, dead=dead, callback=dead, max_sink_length=2)
    assert await length(store) == 1
    assert await length(store, SINK) == 2
    assert await length(store, REAR) == await length(store, CALLBACKS) == 0
    assert await store.take(QUEUE, other, 1, lease=LONG) == []
    assert await store.renew(QUEUE, worker, [delivery.item.index], lease=LONG) == [delivery.item.index]
    await store.get(SINK, delete=True)
    assert await store.finish(QUEUE, delivery, worker, result, sink=SINK, max_sink_length=2)


async def test_nothing_to_write_needs_no_room(store):
    await put_many(store, 1, SINK)
    await put_many(store, 1)
    worker = await joined(store)
    assert await store.finish(QUEUE, await one(store, worker), worker, None, sink=SINK, max_sink_length=1)


async def test_an_ended_sink_still_gets_the_results_of_what_was_accepted(store):
    await store.put(QUEUE, item(rid="r"))
    await store.end(SINK)
    worker = await joined(store)
    assert await store.finish(QUEUE, await one(store, worker), worker, item("out", rid="r"), sink=SINK)
    assert await length(store, SINK) == 1


async def test_finish_removes_for_every_group(store):
    await put_many(store, 1)
    worker, watcher = await joined(store), await joined(store, group="spectators")
    await one(store, watcher)
    assert await store.finish(QUEUE, await one(store, worker), worker, None, sink=SINK)
    assert await length(store) == 0
    assert await store.renew(QUEUE, watcher, [1], lease=LONG) == []


# -- task records ------------------------------------------------------------------------------------


async def test_a_task_from_put_to_result(store):
    assert await store.task(QUEUE, "r") is None
    index = (await store.put(QUEUE, item(rid="r", task_id="t"))).index
    queued = await store.task(QUEUE, "r")
    assert (queued.request_id, queued.index, queued.state, queued.tags["task_id"]) == ("r", index, "queued", "t")
    assert (queued.finished, queued.result) == (None, None)
    worker = await joined(store)
    delivery = await one(store, worker)
    running = await store.task(QUEUE, "r")
    assert (running.state, running.finished) == ("running", None)
    await store.finish(QUEUE, delivery, worker, item("out", rid="r"), sink=SINK)
    done = await store.task(QUEUE, "r")
    assert (done.state, done.result, done.index, done.tags) == ("done", b"out", index, queued.tags)
    assert done.created == queued.created
    assert done.finished is not None and done.finished >= done.created


async def test_the_result_of_a_task_outlives_its_reading(store):
    await store.put(QUEUE, item(rid="r"))
    worker = await joined(store)
    await store.finish(QUEUE, await one(store, worker), worker, item("out", rid="r"), sink=SINK)
    await store.get(SINK, delete=True)
    assert (await store.task(QUEUE, "r")).result == b"out"


async def test_results_above_64_kb_are_left_out_of_the_record(store):
    await store.put(QUEUE, item(rid="r"))
    worker = await joined(store)
    await store.finish(QUEUE, await one(store, worker), worker, item(b"x" * 70_000, rid="r"), sink=SINK)
    assert (await store.task(QUEUE, "r")).state == "done"
    assert (await store.task(QUEUE, "r")).result is None
    await store.get(SINK, delete=True)
    assert (await store.task(QUEUE, "r")).result is None


async def test_a_failed_task(store):
    await store.put(QUEUE, item(rid="r"))
    worker = await joined(store)
    await store.finish(QUEUE, await one(store, worker), worker, item("why", rid="r"), sink=SINK, failed=True)
    failed = await store.task(QUEUE, "r")
    assert (failed.state, failed.result) == ("failed", b"why")


async def test_a_task_given_back_is_queued_again(store):
    await store.put(QUEUE, item(rid="r"))
    worker = await joined(store)
    await one(store, worker)
    await store.leave(QUEUE, worker)
    assert (await store.task(QUEUE, "r")).state == "queued"


async def test_a_task_whose_worker_is_silent_is_queued_again(store):
    await store.put(QUEUE, item(rid="r"))
    await one(store, await joined(store), lease=0.1)
    await asyncio.sleep(0.2)
    assert (await store.task(QUEUE, "r")).state == "queued"


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("how", ["delete", "truncate", "force"])
async def test_a_removed_task_is_remembered_as_failed(store, how, held):
    index = (await store.put(QUEUE, item(rid="r"))).index
    if held:
        await one(store, await joined(store))
    match how:
        case "delete":
            await store.delete(QUEUE, [index])
        case "truncate":
            await store.truncate(QUEUE, index + 1)
        case "force":
            await store.end(QUEUE, force=True)
    record = await store.task(QUEUE, "r")
    expected = "running" if held and how == "force" else "failed"
    assert (record.state, record.result) == (expected, None)
    assert (record.finished is None) == (expected == "running")


@pytest.mark.parametrize("how", ["commit", "get"])
async def test_a_task_that_a_client_consumed_is_done(store, how):
    index = (await store.put(QUEUE, item(rid="r"))).index
    if how == "commit":
        await store.commit(QUEUE, "eas", [index])
    else:
        await store.get(QUEUE, delete=True)
    record = await store.task(QUEUE, "r")
    assert (record.state, record.result) == ("done", None)


async def test_tasks_belong_to_their_queue(store):
    await store.put(QUEUE, item(rid="r"))
    assert await store.task("other", "r") is None
