"""The same random calls to both stores give the same answers, and leave Redis' own books in order."""

from __future__ import annotations

import dataclasses
import random
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sdwebui_api.errors import SdWebUIError
from sdwebui_api.queueing.model import Consumer, Delivery, Item, NewItem, QueueStats, TaskRecord
from sdwebui_api.queueing.store import QueueStore
from sdwebui_api.queueing.stores.redis import RedisStore
from sdwebui_api.queueing.stores.redis_keys import base_of
from sdwebui_api.queueing.stores.sqlite import SqliteStore
from tests.queueing.stores.support import LONG, QUEUE, SINK
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.anyio
GROUPS, USERS, COLORS = ("sd_async", "eas"), ("a", "b"), ("red", "blue", "green")
LOW = 2**52

Act = Callable[[QueueStore], Awaitable[Any]]


class Calls:
    """Random calls, each to be made on any number of stores."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.put = 0
        self.connections: dict[tuple[str, str], Consumer] = {}
        self.deliveries: list[tuple[Delivery, Consumer]] = []

    def next(self) -> tuple[str, Act]:
        names = [
            "put",
            "put",
            "put",
            "put",
            "take",
            "take",
            "take",
            "commit",
            "commit",
            "release",
            "reject",
            "finish",
            "finish",
            "leave",
            "join",
            "renew",
        ]
        names += ["get", "get_delete", "get_tag", "delete", "truncate", "search", "count", "task", "stats"]
        name = self.random.choice(names)
        act: Act = getattr(self, f"_{name}")()
        return name, act

    def _index(self) -> int:
        return self.random.randint(max(1, self.put - 20), self.put + 2)

    def _indexes(self) -> list[int]:
        return sorted({self._index() for _ in range(self.random.randint(1, 3))})

    def _put(self) -> Act:
        self.put += 1
        repeated = self.random.random() < 0.1
        rid = f"r{self.random.randint(1, self.put)}" if repeated else f"r{self.put}"
        tags = {"requestId": rid, "color": self.random.choice(COLORS), "size": self.random.choice("sml")}
        new = NewItem(str(self.put).encode(), tags, self.random.choice((0, 0, 0, 1)), "p")
        return lambda store: store.put(QUEUE, new, max_length=self.put if not repeated else 1)

    def _consumer(self) -> Consumer:
        key = (self.random.choice(GROUPS), self.random.choice(USERS))
        return self.connections.get(key) or Consumer(*key, "never-joined")

    def _join(self) -> Act:
        group, user = self.random.choice(GROUPS), self.random.choice(USERS)
        made = Consumer(
            group, user, uuid.UUID(int=self.random.getrandbits(128)).hex,
            auto_commit=self.random.random() < 0.15,
            start=self.random.choice((0, 0, 0, -1, max(0, self.put - 3))),
            tags=self.random.choice(({}, {}, {}, {"color": "red"}, {"color": "blue", "size": "s"})),
        )  # fmt: skip
        self.connections[(group, user)] = made
        return lambda store: store.join(QUEUE, made)

    def _leave(self) -> Act:
        who = self._consumer()
        return lambda store: store.leave(QUEUE, who)

    def _take(self) -> Act:
        who, limit, bare = self._consumer(), self.random.randint(1, 4), self.random.random() < 0.1

        async def take(store: QueueStore) -> list[Delivery]:
            found = await store.take(QUEUE, who, limit, lease=LONG, index_only=bare)
            self.deliveries += [(delivery, who) for delivery in found]
            return found

        return take

    def _renew(self) -> Act:
        who, indexes = self._consumer(), self._indexes()
        return lambda store: store.renew(QUEUE, who, indexes, lease=LONG)

    def _commit(self) -> Act:
        group, indexes = self.random.choice(GROUPS), self._indexes()
        return lambda store: store.commit(QUEUE, group, indexes)

    def _release(self) -> Act:
        who, indexes, counts = self._consumer(), self._indexes(), self.random.random() < 0.5
        return lambda store: store.release(QUEUE, who, indexes, counts=counts)

    def _reject(self) -> Act:
        group, indexes, counts = self.random.choice(GROUPS), self._indexes(), self.random.random() < 0.5
        return lambda store: store.reject(QUEUE, group, indexes, counts=counts)

    def _finish(self) -> Act:
        if not self.deliveries:
            return self._take()
        delivery, who = self.random.choice(self.deliveries[-20:])
        tags = delivery.item.tags
        result = NewItem(b"out", tags) if self.random.random() < 0.9 else None
        dead = NewItem(b"dead", tags) if self.random.random() < 0.2 else None
        failed = dead is not None
        return lambda store: store.finish(QUEUE, delivery, who, result, sink=SINK, failed=failed, dead=dead)

    def _get(self) -> Act:
        start, length = self.random.choice((0, -1, self._index())), self.random.randint(1, 5)
        group = self.random.choice((None, *GROUPS))
        return lambda store: store.get(QUEUE, start=start, length=length, group=group)

    def _get_delete(self) -> Act:
        start, group = self.random.choice((0, self._index())), self.random.choice((None, *GROUPS))
        queue = self.random.choice((QUEUE, SINK))
        return lambda store: store.get(queue, start=start, length=2, delete=True, group=group)

    def _get_tag(self) -> Act:
        tags = {"color": self.random.choice(COLORS)} | ({"size": "m"} if self.random.random() < 0.5 else {})
        rid = f"r{self._index()}" if self.random.random() < 0.3 else None
        start = self.random.choice((0, 0, -1, self._index()))
        return lambda store: store.get(QUEUE, start=start, length=4, tags=tags, request_id=rid)

    def _delete(self) -> Act:
        indexes = self._indexes()
        return lambda store: store.delete(QUEUE, indexes)

    def _truncate(self) -> Act:
        below = max(1, self.put - 15)
        return lambda store: store.truncate(QUEUE, below)

    def _search(self) -> Act:
        index, group = self._index(), self.random.choice((*GROUPS, "nobody"))
        return lambda store: store.search(QUEUE, index, group=group, service_group=GROUPS[0])

    def _count(self) -> Act:
        priority, tags = self.random.choice((None, 0, 1)), self.random.choice(({}, {"color": "red"}))
        return lambda store: store.count(QUEUE, priority=priority, tags=tags)

    def _task(self) -> Act:
        rid = f"r{self._index()}"
        return lambda store: store.task(QUEUE, rid)

    def _stats(self) -> Act:
        return lambda store: store.stats(QUEUE)


async def outcome(store: QueueStore, act: Act) -> Any:
    """What the call answered or raised, without times."""
    try:
        return timeless(await act(store))
    except SdWebUIError as error:
        return type(error).__name__


def timeless(value: Any) -> Any:
    if isinstance(value, list):
        return [timeless(one) for one in value]
    if isinstance(value, Delivery):
        return (timeless(value.item), value.count)
    if isinstance(value, Item):
        return dataclasses.replace(value, created=0.0)
    if isinstance(value, TaskRecord):
        return dataclasses.replace(value, created=0.0, finished=value.finished and 1.0)
    if isinstance(value, QueueStats):
        # Of those who left, what they gave back earlier may count as left uncommitted or not.
        consumers = sorted(
            (c.group, c.user, c.index, c.pending, c.status == "Running", dict(c.tags)) for c in value.consumers
        )
        assert {c.group for c in value.consumers} <= set(value.groups)
        return (value.length, value.waiting, value.first_index, value.last_index, consumers)
    return value


@pytest.mark.parametrize("seed", range(6))
async def test_both_stores_answer_alike(tmp_path, seed):
    with RedisServer(tmp_path / "redis", appendfsync="no") as server:
        stores: list[QueueStore] = [SqliteStore(tmp_path / "queue.sqlite3"), RedisStore(server.url)]
        for store in stores:
            await store.open()
        calls, history = Calls(seed), []
        for _ in range(400):
            name, act = calls.next()
            known = len(calls.deliveries)
            expected, found = [await outcome(store, act) for store in stores]
            del calls.deliveries[known + (len(calls.deliveries) - known) // 2 :]  # each store added them
            history.append((name, expected))
            assert found == expected, history[-15:]
        await books_are_in_order(stores[1])
        await stores[1].truncate(QUEUE, 10**6)
        await books_are_in_order(stores[1])
        for store in stores:
            await store.close()


async def books_are_in_order(store: QueueStore) -> None:
    """All that Redis keeps about the items of the queue says the same."""
    assert isinstance(store, RedisStore)
    ask, base = store._link.command, base_of(QUEUE)

    async def scores(key: str) -> dict[int, int]:
        flat = await ask("ZRANGE", f"{base}:{key}", 0, -1, "WITHSCORES")
        return {int(i): int(score) for i, score in zip(flat[::2], flat[1::2], strict=True)}

    order = await scores("order")
    entries: dict[int, dict[bytes, bytes]] = {}
    for stream, offset in (("high", 0), ("low", LOW)):
        for name, fields in await ask("XRANGE", f"{base}:{stream}", "-", "+"):
            index = int(name.split(b"-")[0])
            entries[index] = dict(zip(fields[::2], fields[1::2], strict=True))
            assert order[index] == index + offset
    assert entries.keys() == order.keys()
    assert (await scores("committed")).items() <= order.items()
    for key in await ask("KEYS", f"{base}:tag:*"):
        tagged = await scores(key.decode().removeprefix(f"{base}:"))
        name, _, value = key.partition(b":tag:")[2].partition(b":")[2].partition(b"=")
        assert tagged == {i: s for i, s in order.items() if entries[i].get(b"=" + name) == value}
    for group in await ask("SMEMBERS", f"{base}:groups"):
        name = group.decode()
        away, leases = await scores(f"away:{name}"), await scores(f"leases:{name}")
        lapsed = {int(i) for i in await ask("SMEMBERS", f"{base}:lapsed:{name}")}
        assert away.items() <= order.items()
        assert leases.keys() <= away.keys()
        assert lapsed <= order.keys() - away.keys()
        fields = await ask("HGETALL", f"{base}:group:{name}")
        known = dict(zip(fields[::2], fields[1::2], strict=True))
        for stream, offset in (("high", 0), ("low", LOW)):
            reached = int(known.get(stream.encode(), offset))
            passed = {i for i, score in order.items() if offset < score <= reached}
            assert passed <= away.keys(), "what lies behind the frontier is not to be given out"
            pending = await ask("XPENDING", f"{base}:{stream}", group, "-", "+", 10_000)
            assert {int(entry[0].split(b"-")[0]) for entry in pending} <= order.keys()
