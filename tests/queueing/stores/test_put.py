"""put: indexes, idempotence, limits, end of stream."""

from __future__ import annotations

import asyncio
import time

import pytest

from sdwebui_api.queueing.model import HIGH, REQUEST_ID
from sdwebui_api.queueing.store import QueueFull, StreamEnded
from tests.queueing.stores.support import LONG, QUEUE, SINK, bodies, indexes, item, joined, length, one, put_many

pytestmark = pytest.mark.anyio


async def test_everything_of_an_item_is_kept(store):
    before = time.time()
    new = item(b"\x00\xff binary \n", priority=HIGH, path="sdapi/v1/txt2img", rid="r-1", task_id="ü 1", empty="")
    receipt = await store.put(QUEUE, new)
    assert (receipt.request_id, receipt.fresh) == ("r-1", True)
    (kept,) = await store.get(QUEUE)
    assert (kept.index, kept.data, kept.priority, kept.path) == (receipt.index, new.data, HIGH, new.path)
    assert kept.tags == {REQUEST_ID: "r-1", "task_id": "ü 1", "empty": ""}
    assert kept.request_id == "r-1"
    assert before - 1 <= kept.created <= time.time() + 1


@pytest.mark.parametrize("data", [b"", b"\x00" * (2**20)], ids=["empty", "1 MiB"])
async def test_any_size_of_data(store, data):
    await store.put(QUEUE, item(data))
    taker = await joined(store)
    assert (await one(store, taker)).item.data == data


async def test_indexes_grow_from_one_in_every_queue(store):
    assert await put_many(store, 3) == [1, 2, 3]
    assert await put_many(store, 2, SINK) == [1, 2]


async def test_indexes_are_never_used_again(store_factory):
    store = await store_factory()
    await put_many(store, 3)
    await store.truncate(QUEUE, 4)
    assert await put_many(store, 2) == [4, 5]
    await store.delete(QUEUE, [5])
    await store.close()
    again = await store_factory()
    assert await put_many(again, 1) == [6]


async def test_puts_at_once_get_different_indexes_in_order(store):
    receipts = await asyncio.gather(*(store.put(QUEUE, item(str(n))) for n in range(50)))
    assert sorted(receipt.index for receipt in receipts) == list(range(1, 51))
    found = await store.get(QUEUE, length=50)
    assert {kept.index: kept.data for kept in found} == {r.index: str(n).encode() for n, r in enumerate(receipts)}


async def test_two_stores_share_one_counter(store_factory):
    stores = [await store_factory(), await store_factory()]
    receipts = await asyncio.gather(*(stores[n % 2].put(QUEUE, item(str(n))) for n in range(40)))
    assert sorted(receipt.index for receipt in receipts) == list(range(1, 41))
    assert await length(stores[0]) == await length(stores[1]) == 40


async def test_a_second_put_of_a_request_id_answers_the_first_index(store):
    first = await store.put(QUEUE, item("a", rid="same"))
    second = await store.put(QUEUE, item("b", rid="same"))
    assert (second.index, second.request_id, second.fresh) == (first.index, "same", False)
    assert [kept.data for kept in await store.get(QUEUE, length=5)] == [b"a"]
    assert (await store.put(QUEUE, item("c"))).index == first.index + 1


async def test_puts_of_one_request_id_at_once_add_one_item(store_factory):
    stores = [await store_factory(), await store_factory()]
    receipts = await asyncio.gather(*(stores[n % 2].put(QUEUE, item(rid="same")) for n in range(20)))
    assert {receipt.index for receipt in receipts} == {1}
    assert sum(receipt.fresh for receipt in receipts) == 1
    assert await length(stores[0]) == 1


async def test_a_request_id_belongs_to_its_queue(store):
    await store.put(QUEUE, item(rid="same"))
    assert (await store.put(SINK, item(rid="same"))).fresh
    assert (await store.put("other", item(rid="same"))).fresh


@pytest.mark.parametrize("how", ["finished", "committed", "deleted", "truncated", "got"])
async def test_a_request_id_is_remembered_after_its_item_is_gone(store, how):
    index = (await store.put(QUEUE, item(rid="same"))).index
    worker = await joined(store)
    delivery = await one(store, worker)
    match how:
        case "finished":
            assert await store.finish(QUEUE, delivery, worker, item(rid="same"), sink=SINK)
        case "committed":
            await store.commit(QUEUE, worker.group, [index])
        case "deleted":
            await store.delete(QUEUE, [index])
        case "truncated":
            await store.truncate(QUEUE, index + 1)
        case "got":
            await store.get(QUEUE, request_id="same", delete=True)
    assert await length(store) == 0
    again = await store.put(QUEUE, item(rid="same"))
    assert (again.index, again.fresh) == (index, False)
    assert await length(store) == 0


async def test_a_full_queue_refuses_until_there_is_room(store):
    for n in range(3):
        await store.put(QUEUE, item(rid=str(n)), max_length=3)
    with pytest.raises(QueueFull):
        await store.put(QUEUE, item(rid="late"), max_length=3)
    assert not (await store.put(QUEUE, item(rid="1"), max_length=3)).fresh, "a known request is no new item"
    await store.delete(QUEUE, [1])
    assert (await store.put(QUEUE, item(rid="late"), max_length=3)).fresh
    assert await length(store) == 3


async def test_the_limit_holds_for_puts_at_once(store_factory):
    stores = [await store_factory(), await store_factory()]
    puts = (stores[n % 2].put(QUEUE, item(), max_length=10) for n in range(30))
    results = await asyncio.gather(*puts, return_exceptions=True)
    assert sum(isinstance(result, QueueFull) for result in results) == 20
    assert await length(stores[0]) == 10


async def test_delivered_items_count_for_the_limit(store):
    await put_many(store, 2)
    taker = await joined(store)
    await store.take(QUEUE, taker, 2, lease=LONG)
    with pytest.raises(QueueFull):
        await store.put(QUEUE, item(), max_length=2)


async def test_an_ended_stream_takes_no_puts(store):
    await store.put(QUEUE, item(rid="before"))
    await store.end(QUEUE)
    with pytest.raises(StreamEnded):
        await store.put(QUEUE, item())
    assert not (await store.put(QUEUE, item(rid="before"))).fresh, "what was accepted stays accepted"
    assert (await store.stats(QUEUE)).ended
    assert not (await store.stats(SINK)).ended


async def test_an_ended_stream_is_read_to_its_end(store):
    await put_many(store, 2)
    await store.end(QUEUE)
    taker = await joined(store)
    found = await store.take(QUEUE, taker, 5, lease=LONG)
    assert bodies(found) == [b"0", b"1"]
    assert await store.take(QUEUE, taker, 5, lease=LONG) == [], "held items may still come back"
    await store.commit(QUEUE, taker.group, indexes(found))
    with pytest.raises(StreamEnded):
        await store.take(QUEUE, taker, 5, lease=LONG)


async def test_a_forced_end_drops_what_was_not_delivered(store):
    await put_many(store, 3)
    taker = await joined(store)
    held = await one(store, taker)
    await store.end(QUEUE, force=True)
    assert await length(store) == 1
    assert await store.take(QUEUE, taker, 5, lease=LONG) == []
    await store.commit(QUEUE, taker.group, [held.item.index])
    with pytest.raises(StreamEnded):
        await store.take(QUEUE, taker, 5, lease=LONG)
