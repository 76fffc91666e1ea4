"""Short forms for the contract tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from sdwebui_api.queueing.model import LOW, REQUEST_ID, Consumer, Delivery, NewItem
from sdwebui_api.queueing.store import QueueStore

QUEUE = "sd_async"
SINK = "sd_async/sink"
REAR = "sd_async/rear"
CALLBACKS = "sd_async/callbacks"
WORKERS = "sd_async"
LONG = 60.0
"""A lease that no test outlives."""


def item(data: bytes | str = b"body", *, priority: int = LOW, path: str = "", rid: str = "", **tags: str) -> NewItem:
    body = data.encode() if isinstance(data, str) else data
    return NewItem(body, {REQUEST_ID: rid or uuid.uuid4().hex, **tags}, priority, path)


def consumer(user: str = "u", group: str = WORKERS, **fields: object) -> Consumer:
    """A new connection of `user`."""
    return Consumer(group, user, uuid.uuid4().hex, **fields)  # type: ignore[arg-type]


async def joined(
    store: QueueStore, user: str = "u", group: str = WORKERS, queue: str = QUEUE, **fields: object
) -> Consumer:
    found = consumer(user, group, **fields)
    await store.join(queue, found)
    return found


async def put_many(store: QueueStore, count: int, queue: str = QUEUE, **fields: object) -> list[int]:
    """The indexes. The bodies are "0", "1", …"""
    return [(await store.put(queue, item(str(n), **fields))).index for n in range(count)]  # type: ignore[arg-type]


def indexes(deliveries: Iterable[Delivery]) -> list[int]:
    return [delivery.item.index for delivery in deliveries]


def bodies(deliveries: Iterable[Delivery]) -> list[bytes]:
    return [delivery.item.data for delivery in deliveries]


async def one(store: QueueStore, taker: Consumer, queue: str = QUEUE, lease: float = LONG) -> Delivery:
    (delivery,) = await store.take(queue, taker, 1, lease=lease)
    return delivery


async def length(store: QueueStore, queue: str = QUEUE) -> int:
    return (await store.stats(queue, consumers=False)).length
