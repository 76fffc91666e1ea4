"""Queues in one sqlite file: nothing to install, for any number of processes on one machine.

Puts and takes of one process share transactions (group commit, `lite/writer.py`), so the rate does not end at one sync
of the disk per message. No call looks at more rows than it answers, however many messages wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sdwebui_api.queueing.model import Consumer, Delivery, Item, ItemState, NewItem, QueueStats, Receipt, TaskRecord
from sdwebui_api.queueing.stores.lite import consumers, items, reads, sweep
from sdwebui_api.queueing.stores.lite.reader import Reader
from sdwebui_api.queueing.stores.lite.rows import Filter
from sdwebui_api.queueing.stores.lite.schema import PATIENCE, unavailable
from sdwebui_api.queueing.stores.lite.wakes import Wakes
from sdwebui_api.queueing.stores.lite.writer import Transaction, Writer

REMEMBER = 300.0


class SqliteStore:
    """A QueueStore (`queueing/store.py`, which documents the methods). For one event loop."""

    def __init__(self, path: Path, *, remember: float = REMEMBER, patience: float = PATIENCE) -> None:
        """`patience`: seconds to wait while another process writes."""
        self._path = path
        self._remember = remember
        self._wakes = Wakes(self._look)
        self._writer = Writer(path, self._wakes.announce, patience=patience)
        self._reader = Reader(path)

    async def open(self) -> None:
        try:
            await asyncio.to_thread(self._path.parent.mkdir, parents=True, exist_ok=True)
        except OSError as error:
            raise unavailable(self._path, error) from error
        self._writer.start()
        self._reader.start()
        try:
            await self._writer.do(lambda tx: None)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await self._wakes.stop()
        await self._reader.stop()
        await self._writer.stop()

    # -- writing -------------------------------------------------------------------------------------

    async def put(self, queue: str, item: NewItem, *, max_length: int | None = None) -> Receipt:
        return await self._writer.do(lambda tx: items.put(tx, queue, item, max_length))

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
        return await self._writer.do(
            lambda tx: items.finish(tx, queue, delivery, result, sink, failed, dead, callback, max_sink_length)
        )

    async def end(self, queue: str, *, force: bool = False) -> None:
        await self._writer.do(lambda tx: items.end(tx, queue))
        if force:
            await self._all(lambda tx: items.drop_some_undelivered(tx, queue))

    # -- consuming -----------------------------------------------------------------------------------

    async def join(self, queue: str, consumer: Consumer) -> None:
        await self._writer.do(lambda tx: consumers.join(tx, queue, consumer))

    async def leave(self, queue: str, consumer: Consumer) -> None:
        await self._writer.do(lambda tx: consumers.leave(tx, queue, consumer))

    async def take(
        self, queue: str, consumer: Consumer, limit: int, *, lease: float, index_only: bool = False
    ) -> list[Delivery]:
        return await self._writer.do(lambda tx: consumers.take(tx, queue, consumer, limit, lease, index_only))

    async def renew(self, queue: str, consumer: Consumer, indexes: Sequence[int], *, lease: float) -> list[int]:
        return await self._writer.do(lambda tx: consumers.renew(tx, queue, consumer, indexes, lease))

    async def commit(self, queue: str, group: str, indexes: Sequence[int]) -> None:
        await self._writer.do(lambda tx: consumers.commit(tx, queue, group, indexes))

    async def release(self, queue: str, consumer: Consumer, indexes: Sequence[int], *, counts: bool = False) -> None:
        await self._writer.do(lambda tx: consumers.release(tx, queue, consumer, indexes, counts))

    async def reject(self, queue: str, group: str, indexes: Sequence[int], *, counts: bool) -> list[Delivery]:
        return await self._writer.do(lambda tx: consumers.reject(tx, queue, group, indexes, counts))

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
        wanted = reads.Wanted(start, length, Filter(tags, request_id), group)
        if not delete:
            return await self._reader.do(lambda db, now: reads.get(db, queue, wanted, now))
        # Those who poll for a result that is not there yet do not come to the writer.
        if await self._reader.do(lambda db, now: reads.get(db, queue, wanted, now, data=False)):
            return await self._writer.do(lambda tx: items.get_and_delete(tx, queue, wanted))
        return []

    async def delete(self, queue: str, indexes: Sequence[int]) -> list[Item]:
        return await self._writer.do(lambda tx: items.delete(tx, queue, indexes))

    async def truncate(self, queue: str, below: int) -> int:
        return await self._all(lambda tx: items.truncate_some(tx, queue, below))

    async def search(self, queue: str, index: int, *, group: str, service_group: str) -> ItemState | None:
        return await self._reader.do(lambda db, now: reads.search(db, queue, index, group, service_group, now))

    async def count(self, queue: str, *, priority: int | None = None, tags: Mapping[str, str] | None = None) -> int:
        return await self._reader.do(lambda db, now: reads.count(db, queue, priority, tags))

    async def stats(self, queue: str, *, consumers: bool = True) -> QueueStats:
        return await self._reader.do(lambda db, now: reads.stats(db, queue, consumers, now))

    async def task(self, queue: str, request_id: str) -> TaskRecord | None:
        return await self._reader.do(lambda db, now: reads.task(db, queue, request_id, items.KEPT, now))

    # -- waiting and housekeeping --------------------------------------------------------------------

    async def wait(self, queue: str, seen: int, timeout: float) -> int:
        if seen < 0 or timeout <= 0:
            known = self._wakes.known(queue)
            number = await self._reader.do(lambda db, now: reads.number(db, queue))
            self._wakes.correct(queue, known, number)
            return number
        return await self._wakes.wait(queue, seen, timeout)

    async def sweep(self, *, retention: float, lease: float) -> None:
        await self._writer.do(lambda tx: sweep.consumers(tx, lease, self._remember))
        await self._all(lambda tx: sweep.released_items(tx, self._remember))
        await self._all(lambda tx: sweep.groups(tx, self._remember))
        await self._all(lambda tx: sweep.old_results(tx, retention))
        await self._all(lambda tx: sweep.old_records(tx, retention))
        await self._all(sweep.unused_pages)

    async def _all(self, part: Callable[[Transaction], int]) -> int:
        """Repeats `part`, each time in a transaction that other calls can come before, until nothing is left."""
        total = 0
        while done := await self._writer.do(part):
            total += done
        return total

    async def _look(self) -> Mapping[str, int]:
        numbers, expired = await self._reader.do(lambda db, now: (reads.numbers(db), reads.has_expired(db, now)))
        if expired:
            await self._writer.do(consumers.expire)
        return numbers
