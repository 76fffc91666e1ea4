"""What only the Redis store has to survive: lost answers, restarts, hangs, refusals, a cluster. The rest is the law."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator

import pytest

from sdwebui_api.errors import BadRequest
from sdwebui_api.queueing.model import HIGH, LOW, Consumer, NewItem
from sdwebui_api.queueing.store import StoreUnavailable
from sdwebui_api.queueing.stores.redis import CLAIM, FINISH, MOST_TAGS, PUT, TAKE, RedisStore
from sdwebui_api.queueing.stores.redis_keys import base_of
from sdwebui_api.queueing.stores.redis_link import Link
from sdwebui_api.queueing.stores.redis_wake import LOOK_SECONDS
from tests.queueing.stores.support import (
    LONG,
    QUEUE,
    REAR,
    SINK,
    bodies,
    consumer,
    indexes,
    item,
    joined,
    length,
    one,
    put_many,
)
from tests.support.cutting_proxy import CuttingProxy
from tests.support.redis_server import RedisServer, free_port

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(tmp_path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as running:
        yield running


@pytest.fixture
async def store(server):
    made = RedisStore(server.url)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def proxied(server):
    """A store behind a proxy that can lose answers, and that proxy. The scripts are known to the server already."""
    async with CuttingProxy(server.port) as proxy:
        made = RedisStore(f"redis://127.0.0.1:{proxy.port}/0")
        await made.open()
        await made.put("warm", item(rid="w"))
        worker = await joined(made, queue="warm")
        await made.finish("warm", await one(made, worker, "warm"), worker, item(rid="w"), sink="warm/sink")
        await made.get("warm/sink", delete=True)
        yield made, proxy
        await made.close()


async def seconds_of(act: Callable[[], Awaitable[object]]) -> float:
    begun = time.monotonic()
    await act()
    return time.monotonic() - begun


# -- lost answers ------------------------------------------------------------------------------------


async def test_a_put_whose_answer_is_lost_is_put_once(proxied):
    store, proxy = proxied
    proxy.lose_the_answer_to(PUT.digest.encode())
    receipt = await store.put(QUEUE, item(rid="r"))
    assert (proxy.cuts, receipt.index, await length(store)) == (1, 1, 1)


async def test_a_take_whose_answer_is_lost_is_no_second_delivery(proxied):
    store, proxy = proxied
    await put_many(store, 3)
    taker = await joined(store)
    proxy.lose_the_answer_to(TAKE.digest.encode())
    found = await store.take(QUEUE, taker, 2, lease=LONG)
    assert proxy.cuts == 1
    assert [(d.item.data, d.count) for d in found] == [(b"0", 1), (b"1", 1)]
    assert bodies(await store.take(QUEUE, taker, 9, lease=LONG)) == [b"2"]


async def test_a_take_that_failed_gets_its_items_by_the_next_one(proxied, server):
    store, proxy = proxied
    await put_many(store, 2)
    taker = await joined(store)
    proxy.lose_the_answer_to(TAKE.digest.encode())
    taking = asyncio.create_task(store.take(QUEUE, taker, 1, lease=LONG))
    while not proxy.cuts:
        await asyncio.sleep(0.001)
    server.kill()
    with pytest.raises(StoreUnavailable):
        await taking
    server.start()
    assert [(d.item.data, d.count) for d in await store.take(QUEUE, taker, 1, lease=LONG)] == [(b"0", 1)]
    assert [(d.item.data, d.count) for d in await store.take(QUEUE, taker, 9, lease=LONG)] == [(b"1", 1)]


async def test_a_finish_whose_answer_is_lost_succeeded(proxied):
    store, proxy = proxied
    await store.put(QUEUE, item(rid="r"))
    worker = await joined(store)
    delivery = await one(store, worker)
    proxy.lose_the_answer_to(FINISH.digest.encode())
    assert await store.finish(QUEUE, delivery, worker, item("out", rid="r"), sink=SINK)
    assert (proxy.cuts, await length(store), await length(store, SINK)) == (1, 0, 1)
    assert not await store.finish(QUEUE, delivery, worker, item("again", rid="r"), sink=SINK), "this one is another"


async def test_a_finish_that_failed_knows_its_own_work_when_repeated(proxied, server):
    store, proxy = proxied
    await store.put(QUEUE, item(rid="r"))
    worker = await joined(store)
    delivery = await one(store, worker)
    proxy.lose_the_answer_to(FINISH.digest.encode())
    finishing = asyncio.create_task(store.finish(QUEUE, delivery, worker, item("out", rid="r"), sink=SINK))
    while not proxy.cuts:
        await asyncio.sleep(0.001)
    server.kill()
    with pytest.raises(StoreUnavailable):
        await finishing
    server.start()
    assert await store.finish(QUEUE, delivery, worker, item("out", rid="r"), sink=SINK)
    assert [kept.data for kept in await store.get(SINK, length=9)] == [b"out"]


async def test_a_get_that_deletes_gives_what_it_deleted_though_the_answer_is_lost(proxied):
    store, proxy = proxied
    await put_many(store, 1)
    proxy.lose_the_answer_to(CLAIM.digest.encode())
    assert [kept.data for kept in await store.get(QUEUE, delete=True)] == [b"0"]
    assert (proxy.cuts, await length(store)) == (1, 0)


async def test_a_cancelled_take_counts_as_not_made(store):
    await put_many(store, 1)
    taker = await joined(store)
    for _ in range(5):
        taking = asyncio.create_task(store.take(QUEUE, taker, 1, lease=LONG))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
    await store.leave(QUEUE, taker)
    await asyncio.sleep(0.1)
    assert (await one(store, await joined(store))).count == 1


async def test_connections_that_end_lose_and_double_nothing(store, server):
    puts = [asyncio.create_task(patient_put(store, n)) for n in range(400)]
    for _ in range(5):
        await asyncio.sleep(0.01)
        server.ask("CLIENT", "KILL", "TYPE", "normal")
    receipts = await asyncio.gather(*puts)
    assert sorted(receipt.index for receipt in receipts) == list(range(1, 401))
    assert await length(store) == 400


async def patient_put(store: RedisStore, n: int):
    """As a client would: whatever may or may not have been put is put again under its name."""
    while True:
        try:
            return await store.put(QUEUE, item(str(n), rid=f"r{n}"))
        except StoreUnavailable:  # a slow machine needs longer for five connections than a call waits
            await asyncio.sleep(0.1)


async def test_waiting_goes_on_when_the_listening_connection_ends(store, server):
    other = RedisStore(server.url)
    await other.open()
    seen = await store.wait(QUEUE, -1, 0)
    waiter = asyncio.create_task(store.wait(QUEUE, seen, 10))
    await asyncio.sleep(0.1)
    server.ask("CLIENT", "KILL", "TYPE", "pubsub")
    await other.put(QUEUE, item())
    assert await asyncio.wait_for(waiter, 2) != seen
    await other.close()


# -- restarts and hangs ------------------------------------------------------------------------------


async def test_while_redis_is_down_calls_fail_soon_and_it_comes_back_by_itself(store, server):
    await put_many(store, 1)
    taker = await joined(store)
    server.kill()
    for act in (
        lambda: store.put(QUEUE, item()),
        lambda: store.take(QUEUE, taker, 1, lease=LONG),
        lambda: store.stats(QUEUE),
        lambda: store.get(QUEUE, delete=True),
    ):
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await act()
        assert time.monotonic() - begun < 4
    server.start()
    assert await put_many(store, 1) == [2]
    assert bodies(await store.take(QUEUE, taker, 9, lease=LONG)) == [b"0", b"0"]


async def test_opening_without_redis_fails_and_may_be_tried_again(server):
    store = RedisStore(server.url)
    server.kill()
    with pytest.raises(StoreUnavailable):
        await store.open()
    server.start()
    await store.open()
    assert await put_many(store, 1) == [1]
    await store.close()


async def test_a_waiter_sees_what_was_put_after_a_restart(store, server):
    seen = await store.wait(QUEUE, -1, 0)
    waiter = asyncio.create_task(store.wait(QUEUE, seen, 20))
    await asyncio.sleep(0.1)
    server.kill()
    await asyncio.sleep(0.3)
    server.start()
    other = RedisStore(server.url)
    await other.open()
    await other.put(QUEUE, item())
    assert await asyncio.wait_for(waiter, 3) != seen
    await other.close()


async def test_a_hung_redis_hangs_nobody(store, server):
    server.pause()
    took = await seconds_of(lambda: asyncio.gather(*(failing_put(store, f"r{n}") for n in range(20))))
    assert took < 5
    server.resume()
    for n in range(20):
        await store.put(QUEUE, item(rid=f"r{n}"))
    assert await length(store) == 20


async def failing_put(store: RedisStore, rid: str) -> None:
    with pytest.raises(StoreUnavailable):
        await store.put(QUEUE, item(rid=rid))


async def test_downtime_of_redis_does_not_use_up_leases(store, server):
    await put_many(store, 1)
    alive, other = await joined(store, "alive"), await joined(store, "other")
    held = await one(store, alive, lease=3)
    server.kill()
    await asyncio.sleep(3.2)
    server.start()
    assert await store.take(QUEUE, other, 1, lease=3) == [], "the holder has half a lease to come back"
    assert await store.renew(QUEUE, alive, [held.item.index], lease=1) == [held.item.index]
    await asyncio.sleep(1.1)
    assert [d.count for d in await store.take(QUEUE, other, 1, lease=3)] == [2], "but it is not held for ever"


async def test_the_grace_after_a_restart_ends(store, server):
    await put_many(store, 1)
    await one(store, await joined(store, "dead"), lease=1)
    server.kill()
    server.start()
    other = await joined(store, "other")
    assert await store.take(QUEUE, other, 1, lease=1) == []
    await asyncio.sleep(1.7)
    assert [d.count for d in await store.take(QUEUE, other, 1, lease=1)] == [2]


async def test_scripts_that_redis_forgot_are_sent_again(store, server):
    for n in range(3):
        server.ask("SCRIPT", "FLUSH")
        await store.put(QUEUE, item(str(n)))
        server.ask("SCRIPT", "FLUSH")
        puts = await asyncio.gather(*(store.put(QUEUE, item()) for _ in range(10)))
        assert all(receipt.fresh for receipt in puts)
    assert await length(store) == 33


@pytest.mark.slow
async def test_a_stream_of_work_survives_kills_of_redis(tmp_path, server):
    """Puts, takes and finishes by several processes' stores, while Redis is killed again and again."""
    front, workers = RedisStore(server.url), [RedisStore(server.url) for _ in range(2)]
    for opened in (front, *workers):
        await opened.open()
    acknowledged: dict[str, tuple[int, int]] = {}
    finished: list[str] = []
    over = asyncio.Event()

    async def put_stream(number: int) -> None:
        count = 0
        while not over.is_set():
            rid, priority = f"{number}-{count}", HIGH if count % 5 == 0 else LOW
            count += 1
            while rid not in acknowledged:
                try:
                    receipt = await front.put(QUEUE, item(rid, rid=rid, priority=priority))
                except StoreUnavailable:
                    continue
                acknowledged[rid] = (receipt.index, priority)
            await asyncio.sleep(0.002)

    async def work(store: RedisStore, name: str) -> None:
        me = await joined(store, name)
        while not (over.is_set() and len(finished) == len(acknowledged)):
            try:
                for delivery in await store.take(QUEUE, me, 2, lease=LONG):
                    assert delivery.count == 1, "no restart makes a second delivery"
                    rid = delivery.item.request_id
                    while True:
                        try:
                            assert await store.finish(QUEUE, delivery, me, item(rid, rid=rid), sink=SINK)
                        except StoreUnavailable:
                            continue
                        break
                    finished.append(rid)
            except StoreUnavailable:
                continue
            await asyncio.sleep(0.001)

    tasks = [asyncio.create_task(put_stream(n)) for n in range(4)]
    tasks += [asyncio.create_task(work(store, f"w{n}")) for n, store in enumerate(workers)]
    for n in range(8):
        await asyncio.sleep(0.15 + 0.07 * n)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    over.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 60)
    results = [kept.request_id for kept in await front.get(SINK, length=100_000)]
    assert len(acknowledged) > 100
    assert sorted(results) == sorted(acknowledged), "one result each, none lost, none twice"
    for number in range(4):
        for priority in (LOW, HIGH):
            mine = [acknowledged[rid] for rid in acknowledged if rid.startswith(f"{number}-")]
            order = [index for index, kind in mine if kind == priority]
            assert order == sorted(order)
    for opened in (front, *workers):
        await opened.close()


# -- refusals ----------------------------------------------------------------------------------------


async def test_without_memory_nothing_is_half_done_and_reading_frees_some(store, server):
    await store.put(QUEUE, item(rid="r"))
    await put_many(store, 3, SINK)
    worker = await joined(store)
    delivery = await one(store, worker)
    server.ask("CONFIG", "SET", "maxmemory", "1mb")
    with pytest.raises(StoreUnavailable, match="memory"):
        await store.put(QUEUE, item(rid="new"))
    with pytest.raises(StoreUnavailable, match="memory"):
        await store.finish(QUEUE, delivery, worker, item(rid="r"), sink=SINK, dead=item(rid="r"))
    await store.commit(SINK, "eas", [1])
    assert len(await store.get(SINK, delete=True)) == 1
    assert (await length(store, SINK), await length(store, REAR), await length(store)) == (1, 0, 1)
    server.ask("CONFIG", "SET", "maxmemory", "0")
    assert await store.finish(QUEUE, delivery, worker, item(rid="r"), sink=SINK)
    assert (await store.put(QUEUE, item(rid="new"))).index == 2
    assert await length(store, SINK) == 2


async def test_a_server_that_became_a_replica_is_unavailable(store, server):
    server.ask("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreUnavailable):
        await store.put(QUEUE, item())
    server.ask("REPLICAOF", "NO", "ONE")
    assert await put_many(store, 1) == [1]


async def test_an_item_that_took_the_index_of_a_lost_one_is_not_finished_by_its_worker(store):
    """A Redis without fsync that crashes forgets its newest items, and their indexes are given again."""
    await store.put(QUEUE, item(rid="new"))
    worker = await joined(store)
    delivery = await one(store, worker)
    lost = dataclasses.replace(delivery, item=dataclasses.replace(delivery.item, tags={"requestId": "lost"}))
    assert not await store.finish(QUEUE, lost, worker, item(rid="lost"), sink=SINK)
    assert (await length(store), await length(store, SINK)) == (1, 0)


async def test_too_many_tags(store):
    tags = {f"t{n}": "x" for n in range(MOST_TAGS)}
    with pytest.raises(BadRequest, match="200 tags"):
        await store.put(QUEUE, NewItem(b"", {"requestId": "r", **tags}))


@pytest.mark.parametrize(
    "url", ["http://localhost", "redis://localhost:x", "redis://h:1/0?socket_timeout=soon", "redis://h/?a=b"]
)
async def test_addresses_that_are_none(url):
    with pytest.raises(BadRequest):
        RedisStore(url)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"appendonly": "no"}, "writes no AOF"),
        ({"maxmemory": "100mb", "maxmemory_policy": "allkeys-lru"}, "may evict"),
        ({"maxmemory": "100mb"}, ""),
    ],
)
async def test_settings_that_lose_requests_are_warned_of(tmp_path, caplog, options, expected):
    with RedisServer(tmp_path / "redis", **options) as server, caplog.at_level(logging.WARNING):
        store = RedisStore(server.url)
        await store.open()
        await store.close()
    found = [record.getMessage() for record in caplog.records if "redis" in record.name]
    assert len(found) == bool(expected)
    assert all(expected in message for message in found)


async def test_a_redis_that_is_too_old():
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            info = b"redis_version:5.0.14\r\n"
            asked = b"INFO" in data
            writer.write(b"$%d\r\n%s\r\n" % (len(info), info) if asked else b"+OK\r\n" * data.count(b"*"))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as old:
        store = RedisStore(f"redis://127.0.0.1:{old.sockets[0].getsockname()[1]}/0")
        with pytest.raises(StoreUnavailable, match=r"5\.0\.14 is too old"):
            await store.open()
        await store.close()


async def test_a_password(tmp_path):
    with RedisServer(tmp_path / "redis", requirepass="s e%cret") as server:
        store = RedisStore(server.url.replace("redis://", "redis://:s%20e%25cret@"))
        await store.open()
        assert await put_many(store, 1) == [1]
        await store.close()
        stranger = RedisStore(server.url)
        with pytest.raises(StoreUnavailable):
            await stranger.open()
        await stranger.close()


@pytest.mark.parametrize("more", [[], ["+info"]], ids=["least", "with info"])
async def test_a_user_with_the_rights_that_the_documentation_names(server, more):
    rights = [
        "on",
        ">secret",
        "~sdwebui:*",
        "resetchannels",
        "&sdwebui:*",
        "+@all",
        "-@admin",
        "-@dangerous",
        "+client|setname",
        *more,
    ]
    assert server.ask("ACL", "SETUSER", "web", *rights, *more) == b"+OK"
    store = RedisStore(server.url.replace("redis://", "redis://web:secret@"))
    await store.open()
    seen = await store.wait(QUEUE, -1, 0)
    await store.put(QUEUE, item("in", rid="r", task_id="t"))
    assert await store.wait(QUEUE, seen, 5) != seen
    worker = await joined(store)
    delivery = await one(store, worker)
    assert await store.finish(QUEUE, delivery, worker, item("out", rid="r"), sink=SINK, dead=item(rid="r"))
    await store.sweep(retention=0, lease=0)
    assert await length(store, SINK) == 0
    await store.close()


# -- names, size, several machines -------------------------------------------------------------------


async def test_odd_names_do_not_meet(store):
    names = ["a", "a:high", "a/b:high", "{a}", "a{b}c", "a b", "ü", "group.service", "a/b/c", "", "/sink", "\ud800"]
    for name in names:
        await store.put(name, item(name.encode("utf-8", "replace"), rid="r"))
        who = await joined(store, "u:x", "g:y", name)
        assert (await one(store, who, name)).item.index == 1
    for group, user in [("a", "b.c"), ("a.b", "c"), ("", ""), ("high", "low"), ("ü", "\ud800")]:
        await joined(store, user, group, "mixed")
    stats = await store.stats("mixed")
    assert len(stats.consumers) == len(stats.groups) == 5


async def test_databases_of_one_server_do_not_hear_each_other(server, store):
    """Messages go to the listeners of all databases; the numbers in them mean something in one."""
    other = RedisStore(server.url.removesuffix("0") + "1")
    await other.open()
    await put_many(store, 1)
    seen = await store.wait(QUEUE, -1, 0)
    waiter = asyncio.create_task(store.wait(QUEUE, seen, 5))
    await put_many(other, 20)
    await asyncio.sleep(0.05)
    assert not waiter.done()
    begun = time.monotonic()
    await put_many(store, 1)
    assert await waiter != seen
    assert time.monotonic() - begun < LOOK_SECONDS / 2, "woken, not found by looking"
    await other.close()


async def fill(server: RedisServer, queue: str, count: int) -> None:
    """Puts without the way through the network, by the scripts' own function."""
    loop = b"for n = 1, 5000 do append(KEYS[1], 'r' .. n .. ARGV[2], '0', '', 'data', {'requestId', 'x'}) end return 1"
    link = Link(server.url)
    for part in range(count // 5000):
        await link.command("EVAL", PUT.common + loop, 1, base_of(queue), "0/fill", f"-{part}")
    await link.close()


@pytest.mark.slow
async def test_with_100_000_waiting_everything_is_as_fast_as_with_10(tmp_path):
    """Ratios with much slack: whatever walked through the backlog would be a thousand times slower."""
    with RedisServer(tmp_path / "redis", appendonly="no") as server:
        store = RedisStore(server.url)
        await store.open()
        await put_many(store, 10, "short")
        await fill(server, "long", 100_000)
        assert await length(store, "long") == 100_000

        async def seconds(queue: str) -> float:
            me = await joined(store, uuid.uuid4().hex, queue=queue)

            async def round_trip(number: int) -> None:
                index = (await store.put(queue, item(n="x"))).index
                await store.search(queue, index, group="eas", service_group=me.group)
                await store.stats(queue)
                await store.get(queue, tags={"n": "x"})
                await store.count(queue, tags={"n": "x"})
                (delivery,) = await store.take(queue, me, 1, lease=LONG)
                await store.finish(queue, delivery, me, item("out"), sink=f"{queue}/sink")

            return await seconds_of(lambda: asyncio.gather(*(round_trip(n) for n in range(10))))

        short = min([await seconds("short") for _ in range(5)])
        long = min([await seconds("long") for _ in range(5)])
        assert long < 4 * short + 0.05
        begun = time.monotonic()
        assert await store.truncate("long", 10_001) > 9_900
        assert time.monotonic() - begun < 10
        await store.close()


async def nodes_of_a_cluster(servers: list[RedisServer], buses: list[str]) -> None:
    """Two nodes with half of the slots each."""
    servers[0].ask("CLUSTER", "ADDSLOTSRANGE", "0", "8191")
    servers[1].ask("CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
    servers[0].ask("CLUSTER", "MEET", "127.0.0.1", str(servers[1].port), buses[1])
    for server in servers:
        async with asyncio.timeout(20):
            while b"cluster_state:ok" not in server.ask_all("CLUSTER", "INFO"):
                await asyncio.sleep(0.05)


async def test_redis_cluster(tmp_path):
    """The queues of a service are on one node; whichever node the address names, calls find the way there."""
    options = {"cluster_enabled": "yes", "cluster_node_timeout": "2000"}
    buses = [str(free_port()) for _ in range(2)]
    with (
        RedisServer(tmp_path / "a", cluster_port=buses[0], **options) as a,
        RedisServer(tmp_path / "b", cluster_port=buses[1], **options) as b,
    ):
        await nodes_of_a_cluster([a, b], buses)
        stores = [RedisStore(a.url), RedisStore(b.url)]
        for store in stores:
            await store.open()
        seen = await stores[0].wait(QUEUE, -1, 0)
        waiter = asyncio.create_task(stores[0].wait(QUEUE, seen, 5))
        await asyncio.sleep(0.1)
        await stores[1].put(QUEUE, item("in", rid="r", task_id="t"))
        assert await asyncio.wait_for(waiter, 3) != seen
        worker = await joined(stores[0])
        delivery = await one(stores[0], worker)
        done = await stores[0].finish(QUEUE, delivery, worker, item("out", rid="r"), sink=SINK, dead=item(rid="r"))
        assert done
        assert [kept.data for kept in await stores[1].get(SINK)] == [b"out"]
        await stores[1].sweep(retention=0, lease=0)
        assert await length(stores[1], SINK) == 0
        for store in stores:
            await store.close()


async def test_a_worker_process_that_dies_leaves_its_items_to_others(store, server):
    """Another process takes two items and is killed; its leases end."""
    await put_many(store, 3)
    code = (
        "import asyncio, sys, uuid\n"
        "from sdwebui_api.queueing.model import Consumer\n"
        "from sdwebui_api.queueing.stores.redis import RedisStore\n"
        "async def main():\n"
        "    store = RedisStore(sys.argv[1]); await store.open()\n"
        "    me = Consumer('sd_async', 'dies', uuid.uuid4().hex); await store.join('sd_async', me)\n"
        "    found = await store.take('sd_async', me, 2, lease=1.0)\n"
        "    print(*(d.item.index for d in found), flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, server.url, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).split() == [b"1", b"2"]
    process.kill()
    await process.wait()
    heir = await joined(store, "heir")
    assert indexes(await store.take(QUEUE, heir, 9, lease=LONG)) == [3]
    seen = await store.wait(QUEUE, -1, 0)
    begun = time.monotonic()
    await store.wait(QUEUE, seen, 5)
    assert time.monotonic() - begun < 4
    assert [(d.item.index, d.count) for d in await store.take(QUEUE, heir, 9, lease=LONG)] == [(1, 2), (2, 2)]


async def test_a_lease_that_began_long_before_the_waiting_is_noticed_in_time(store, server):
    other = RedisStore(server.url)
    await other.open()
    await put_many(store, 1)
    await one(other, await joined(other, "elsewhere"), lease=3.6)
    await asyncio.sleep(3.0)
    seen = await store.wait(QUEUE, -1, 0)
    begun = time.monotonic()
    assert await store.wait(QUEUE, seen, 5) != seen
    assert time.monotonic() - begun < 4
    await other.close()


async def test_what_tools_see_is_true(store, server):
    """The streams' own consumer groups say who has what; monitoring and autoscaling read them."""
    await put_many(store, 3)
    worker = Consumer("sd_async", "w", consumer().connection)
    await store.join(QUEUE, worker)
    await store.take(QUEUE, worker, 2, lease=LONG)
    assert server.ask("XLEN", "sdwebui:{sd_async}:low") == b":3"
    assert b"\r\nw\r\n" in server.ask_all("XPENDING", "sdwebui:{sd_async}:low", "sd_async")
    await store.commit(QUEUE, "sd_async", [1, 2])
    assert server.ask("XLEN", "sdwebui:{sd_async}:low") == b":1"
