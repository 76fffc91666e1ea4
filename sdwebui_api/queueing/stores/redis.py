"""Queues in Redis Streams, shared by any number of front ends and workers on any number of machines.

Every method is one script, hence one round trip and one transaction (`data/*.lua`; `data/common.lua` says how a queue
is laid out). Redis 6.2 or newer. How durable an acknowledged change is depends on that server: docs/redis.md.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sdwebui_api.errors import BadRequest
from sdwebui_api.queueing.model import (
    REQUEST_ID,
    Consumer,
    Delivery,
    Item,
    ItemState,
    NewItem,
    QueueStats,
    Receipt,
    TaskRecord,
    callbacks_of,
    rear_of,
)
from sdwebui_api.queueing.store import MOST_BYTES, QueueFull, Replaced, StoreUnavailable, StreamEnded
from sdwebui_api.queueing.stores.redis_keys import (
    base_of,
    consumer_stats,
    delivery_of,
    finished_task,
    flat,
    item_of,
    new_item,
    raw,
    seconds,
    service_of,
    text,
    waiting_task,
)
from sdwebui_api.queueing.stores.redis_link import Argument, Link, Script
from sdwebui_api.queueing.stores.redis_wake import Wakes

MOST_TAGS = 200
"""Of one item. Each has an index of its own, and scripts take a limited number of arguments."""
PORTION = 500
"""Indexes handed to one script: Redis does nothing else while it runs."""


PUT, FINISH, END = Script("put"), Script("finish"), Script("end")
JOIN, LEAVE, TAKE, RENEW = Script("join"), Script("leave"), Script("take"), Script("renew")
COMMIT, RELEASE, REJECT = Script("commit"), Script("release"), Script("reject")
FIND, CLAIM, DELETE, TRUNCATE = Script("find"), Script("claim"), Script("delete"), Script("truncate")
SEARCH, COUNT, STATS, TASK = Script("search"), Script("count"), Script("stats"), Script("task")
PEEK, SWEEP = Script("peek"), Script("sweep")


def _token() -> str:
    return uuid.uuid4().hex[:16]


def _milliseconds(value: float) -> int:
    return max(0, int(value * 1000))


@dataclass
class _Taker:
    """The takes of one connection: one at a time, and each told apart until its answer has arrived."""

    token: str = field(default_factory=_token)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RedisStore:
    """A QueueStore (`store.py` says what each method does) on the Redis at `url`."""

    def __init__(self, url: str, *, remember: float = 300.0) -> None:
        self._link = Link(url)
        self._wakes = Wakes(url, self._peek)
        self._remember = remember
        self._services: set[str] = set()
        self._takers: dict[tuple[str, str], _Taker] = {}
        self._unsure: dict[tuple[str, int, str], str] = {}
        self._hand_backs: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        await self._link.command("PING")
        await self._wakes.open()

    async def close(self) -> None:
        if self._hand_backs:
            await asyncio.gather(*self._hand_backs, return_exceptions=True)
        await self._wakes.close()
        await self._link.close()

    # -- writing -------------------------------------------------------------------------------------

    async def put(self, queue: str, item: NewItem, *, max_length: int | None = None) -> Receipt:
        priority, path, data, *tags = _checked(item)
        most = -1 if max_length is None else max_length
        answer = await self._call(PUT, queue, priority, path, data, most, *tags)
        if answer == b"full":
            raise QueueFull(f"{queue} is full: it holds {max_length} items")
        if answer == b"ended":
            raise StreamEnded(f"{queue} was ended")
        index, fresh, number = answer
        self._wakes.note(queue, int(number))
        return Receipt(index, item.request_id, bool(fresh))

    async def finish(
        self,
        queue: str,
        delivery: Delivery,
        consumer: Consumer,
        result: NewItem | None,
        *,
        sink: str,
        failed: bool = False,
        dead: NewItem | None = None,
        callback: NewItem | None = None,
        max_sink_length: int | None = None,
    ) -> bool:
        item = delivery.item
        attempt = (queue, item.index, consumer.connection)
        # An attempt whose answer was lost has its token still, by which the script knows its own work again.
        token = self._unsure.pop(attempt, None) or _token()
        most = -1 if max_sink_length is None else max_sink_length
        additions: list[Argument] = []
        for new in (result, dead, callback):
            arguments = _checked(new) if new is not None else []
            additions += [len(arguments), *arguments]
        keys = [base_of(name) for name in (queue, sink, rear_of(queue), callbacks_of(queue))]
        facts = (item.index, raw(item.request_id), token, int(failed), most)
        try:
            answer = await self._link.call(FINISH, keys, *facts, *additions)
        except StoreUnavailable:
            self._unsure[attempt] = token
            raise
        if answer == b"full":
            raise QueueFull(f"{sink} is full: it holds {max_sink_length} results that nobody has read")
        done, number = answer
        self._wakes.note(queue, int(number))
        return bool(done)

    async def end(self, queue: str, *, force: bool = False) -> None:
        reached: bytes | None = b"0"
        while reached:
            reached, number = await self._call(END, queue, int(force), reached)
            self._wakes.note(queue, int(number))

    # -- consuming -----------------------------------------------------------------------------------

    async def join(self, queue: str, consumer: Consumer) -> None:
        facts = (consumer.window, int(consumer.auto_commit), consumer.start)
        number = await self._call(JOIN, queue, *_who(consumer), *facts, *flat(consumer.tags))
        self._wakes.note(queue, int(number))

    async def leave(self, queue: str, consumer: Consumer) -> None:
        try:
            async with self._taking(queue, consumer):
                number = await self._call(LEAVE, queue, *_who(consumer))
        finally:
            self._takers.pop((queue, consumer.connection), None)
        self._wakes.note(queue, int(number))

    async def take(
        self, queue: str, consumer: Consumer, limit: int, *, lease: float, index_only: bool = False
    ) -> list[Delivery]:
        taking = asyncio.create_task(self._take(queue, consumer, limit, lease, index_only))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            hand_back = asyncio.create_task(self._hand_back(queue, consumer, taking))
            self._hand_backs.add(hand_back)
            hand_back.add_done_callback(self._hand_backs.discard)
            raise

    async def _take(self, queue: str, consumer: Consumer, limit: int, lease: float, index_only: bool) -> list[Delivery]:
        async with self._taking(queue, consumer) as taker:
            facts = (limit, _milliseconds(lease), int(index_only), taker.token, int(consumer.auto_commit))
            answer = await self._call(TAKE, queue, *_who(consumer), *facts, *flat(consumer.tags))
            taker.token = _token()
        if answer == b"replaced":
            self._takers.pop((queue, consumer.connection), None)
            raise Replaced(f"consumer {consumer.id} of {queue} is connected elsewhere, or not at all")
        if answer == b"ended":
            raise StreamEnded(f"{queue} was ended")
        return [delivery_of(found) for found in answer]

    async def _hand_back(self, queue: str, consumer: Consumer, taking: asyncio.Task[list[Delivery]]) -> None:
        """Nobody will see what a cancelled take brings: it counts as not delivered."""
        with suppress(StoreUnavailable, Replaced, StreamEnded):
            indexes = [delivery.item.index for delivery in await taking]
            if indexes and not consumer.auto_commit:
                await self.release(queue, consumer, indexes)

    @asynccontextmanager
    async def _taking(self, queue: str, consumer: Consumer) -> Any:
        taker = self._takers.setdefault((queue, consumer.connection), _Taker())
        async with taker.lock:
            yield taker

    async def renew(self, queue: str, consumer: Consumer, indexes: Sequence[int], *, lease: float) -> list[int]:
        held: list[int] = []
        for part in _portions(indexes) or [()]:
            answer = await self._call(RENEW, queue, *_who(consumer), _milliseconds(lease), *part)
            if answer == b"replaced":
                raise Replaced(f"consumer {consumer.id} of {queue} is connected elsewhere, or not at all")
            held += answer
        return held

    async def commit(self, queue: str, group: str, indexes: Sequence[int]) -> None:
        for part in _portions(indexes):
            self._wakes.note(queue, int(await self._call(COMMIT, queue, raw(group), *part)))

    async def release(self, queue: str, consumer: Consumer, indexes: Sequence[int], *, counts: bool = False) -> None:
        for part in _portions(indexes):
            number = await self._call(RELEASE, queue, *_who(consumer), int(counts), *part)
            self._wakes.note(queue, int(number))

    async def reject(self, queue: str, group: str, indexes: Sequence[int], *, counts: bool) -> list[Delivery]:
        given: list[Delivery] = []
        for part in _portions(indexes):
            number, answer = await self._call(REJECT, queue, raw(group), int(counts), *part)
            self._wakes.note(queue, int(number))
            given += [delivery_of(found) for found in answer]
        return given

    # -- reading and removing ------------------------------------------------------------------------

    async def get(
        self,
        queue: str,
        *,
        start: int = 0,
        length: int = 1,
        request_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        delete: bool = False,
        group: str | None = None,
    ) -> list[Item]:
        wanted = dict(tags or {})
        if request_id is not None and wanted.setdefault(REQUEST_ID, request_id) != request_id:
            return []
        shown = str(start) if start > 0 and length == 1 else "none"
        if request_id is not None or group is None:
            shown = "all"
        look = partial(self._find, queue, start, group or "", shown, wanted)
        return await self._get_and_delete(queue, look, length) if delete else await look(length)

    async def _find(
        self, queue: str, start: int, group: str, shown: str, tags: Mapping[str, str], length: int
    ) -> list[Item]:
        """`shown`: which of the items that are pending in `group`."""
        if length < 1:
            return []
        return _items(await self._call(FIND, queue, start, length, raw(group), shown, *flat(tags)))

    async def _get_and_delete(self, queue: str, look: Any, length: int) -> list[Item]:
        """First read, then claim: whatever breaks on the way, the items are in hand or still there."""
        found: list[Item] = []
        while len(found) < length and sum(len(item.data) for item in found) < MOST_BYTES:
            wanted = min(length - len(found), PORTION)
            seen: list[Item] = await look(wanted)
            if not seen:
                break
            try:
                number, mine = await self._call(CLAIM, queue, _token(), *(item.index for item in seen))
            except StoreUnavailable:
                # Perhaps they are removed and only the answer is lost. Better given twice than never.
                return found + seen
            self._wakes.note(queue, int(number))
            found += [item for item in seen if item.index in mine]
            if len(mine) == len(seen) < wanted:
                break  # nobody else was at it: there is no more
        return found

    async def delete(self, queue: str, indexes: Sequence[int]) -> list[Item]:
        removed: list[Item] = []
        for part in _portions(indexes):
            number, answer = await self._call(DELETE, queue, *part)
            self._wakes.note(queue, int(number))
            removed += _items(answer)
        return removed

    async def truncate(self, queue: str, below: int) -> int:
        total = 0
        while True:
            number, count = await self._call(TRUNCATE, queue, max(0, below))
            self._wakes.note(queue, int(number))
            if not count:
                return total
            total += count

    async def search(self, queue: str, index: int, *, group: str, service_group: str) -> ItemState | None:
        answer = await self._call(SEARCH, queue, index, raw(group), raw(service_group))
        if answer is None:
            return None
        pending, consumer_id, ahead = answer
        return ItemState(bool(pending), text(consumer_id), ahead)

    async def count(self, queue: str, *, priority: int | None = None, tags: Mapping[str, str] | None = None) -> int:
        wanted = "" if priority is None else str(priority)
        return int(await self._call(COUNT, queue, wanted, *flat(tags or {})))

    async def stats(self, queue: str, *, consumers: bool = True) -> QueueStats:
        length, held, first, last, age, ended, groups, who, now = await self._call(STATS, queue, int(consumers))
        return QueueStats(
            length=length,
            waiting=length - held,
            first_index=first or None,
            last_index=last or None,
            oldest_seconds=seconds(age),
            consumers=tuple(consumer_stats(seconds(now), *found) for found in sorted(who)),
            groups=tuple(sorted(text(group) for group in groups)),
            ended=bool(ended),
        )

    async def task(self, queue: str, request_id: str) -> TaskRecord | None:
        answer = await self._call(TASK, queue, raw(request_id))
        if answer is None:
            return None
        state = answer[0].decode()
        if state in ("done", "failed"):
            return finished_task(request_id, state, answer[1])
        return waiting_task(request_id, state, answer[1], answer[2])

    # -- waiting and housekeeping --------------------------------------------------------------------

    async def wait(self, queue: str, seen: int, timeout: float) -> int:
        return await self._wakes.wait(queue, seen, timeout)

    async def _peek(self, queue: str) -> tuple[int, float | None]:
        number, left = await self._call(PEEK, queue)
        return int(number), seconds(left) if left >= 0 else None

    async def sweep(self, *, retention: float, lease: float) -> None:
        times = [_milliseconds(value) for value in (retention, lease, self._remember)]
        for service in sorted(self._services):
            for base in sorted(await self._link.command("SMEMBERS", service)):
                is_results = base.endswith((b"/sink", b"/rear"))
                while await self._link.call(SWEEP, [base.decode()], *times, int(is_results)):
                    await asyncio.sleep(0)

    async def _call(self, script: Script, queue: str, *args: Argument) -> Any:
        self._services.add(service_of(queue))
        return await self._link.call(script, [base_of(queue)], *args)


def _who(consumer: Consumer) -> tuple[bytes, bytes, bytes]:
    return raw(consumer.group), raw(consumer.user), raw(consumer.connection)


def _checked(item: NewItem) -> list[str | bytes]:
    """The arguments of an item. Raises BadRequest when it has too many tags."""
    if len(item.tags) > MOST_TAGS:
        raise BadRequest(f"an item may have {MOST_TAGS} tags, this one has {len(item.tags)}", status=400)
    return new_item(item)


def _portions(indexes: Sequence[int]) -> list[Sequence[int]]:
    return [indexes[at : at + PORTION] for at in range(0, len(indexes), PORTION)]


def _items(answer: Iterable[Any]) -> list[Item]:
    return [item_of(index, priority, fields) for index, _, priority, fields in answer]
