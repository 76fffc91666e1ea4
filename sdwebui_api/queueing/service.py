"""The queue of one service in this process: its store while it is open, its settings, its housekeeping."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sdwebui_api.errors import SdWebUIError
from sdwebui_api.queueing.model import Consumer, Delivery, Item, NewItem, Receipt, TaskRecord, rear_of, sink_of
from sdwebui_api.queueing.outcome import FailureBody, Outcome, cancelled
from sdwebui_api.queueing.settings import QueueSettings
from sdwebui_api.queueing.store import QueueFull, QueueStore, StoreUnavailable

log = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0
RETRY_SECONDS = 1.0
FULL_SECONDS = 0.2
"""How long a full queue is taken to stay full: clients repeat a refused put five times without a pause."""


@dataclass
class Settled:
    """News for the watchers of this process: what somebody is done with, so that windows have room at once.

    News from other processes come through `QueueStore.wait`.
    """

    _listeners: set[Callable[[str, str | None, Callable[[int], bool]], None]] = field(default_factory=set)

    def listen(self, listener: Callable[[str, str | None, Callable[[int], bool]], None]) -> Callable[[], None]:
        """`listener(queue, group or None for all, which indexes)`; what is returned ends it."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def tell(self, queue: str, group: str | None, gone: Callable[[int], bool]) -> None:
        for listener in tuple(self._listeners):
            listener(queue, group, gone)


class QueueService:
    """What the routes, the worker and the metrics share. Made by a composition root, alive inside `running()`."""

    def __init__(self, settings: QueueSettings, store: QueueStore, failure: FailureBody) -> None:
        """`failure`: the body of a failed request in the EAS form."""
        self.settings = settings
        self.failure = failure
        self.settled = Settled()
        self.closing = asyncio.Event()
        """Set when the server stops: watchers and waiting reads end."""
        self._store = store
        self._open = False
        self._obstacle = "The queue's store cannot be reached yet"
        self._full: dict[str, float] = {}
        self._farewells: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        return self.settings.service

    @property
    def ready(self) -> bool:
        """The store has been reached once. While it is away its calls raise."""
        return self._open

    @property
    def store(self) -> QueueStore:
        """Raises StoreUnavailable until it could be opened."""
        if not self._open:
            raise StoreUnavailable(self._obstacle)
        return self._store

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Opens the store, at once or as soon as it can be reached, and keeps it swept until the end."""
        await self._try_to_open()
        housekeeping = asyncio.create_task(self._keep_house(), name="queue housekeeping")
        try:
            yield
        finally:
            self.closing.set()
            housekeeping.cancel()
            with suppress(asyncio.CancelledError):
                await housekeeping
            await asyncio.gather(*self._farewells, return_exceptions=True)
            if self._open:
                self._open = False
                await self._store.close()

    async def put(self, queue: str, item: NewItem) -> Receipt:
        """Raises QueueFull, StreamEnded, StoreUnavailable."""
        self.check_room(queue)
        try:
            return await self.store.put(queue, item, max_length=self.settings.max_length)
        except QueueFull:
            self._full[queue] = time.monotonic() + FULL_SECONDS
            raise

    def check_room(self, queue: str) -> None:
        """Raises QueueFull when the queue was found full a moment ago; costs nothing."""
        if self._full.get(queue, 0.0) > time.monotonic():
            raise QueueFull(f"The queue {queue} holds {self.settings.max_length} items, as many as it may")

    async def task(self, request_id: str) -> TaskRecord | None:
        """What became of a queued request."""
        return await self.store.task(self.name, request_id)

    async def cancel(self, request_id: str) -> bool:
        """Ends a request that waits or runs, with a failure result. False: it had ended before, or is not known."""
        record = await self.task(request_id)
        items = await self.store.get(self.name, start=record.index, request_id=request_id) if record else []
        if not items or items[0].request_id != request_id:
            return False
        return await self.give_up(items[0], cancelled(items[0], self.failure))

    async def give_up(self, item: Item, outcome: Outcome) -> bool:
        """Takes the item out of the input queue, whoever holds it, and leaves `outcome` in its place. False: somebody
        else finished it first."""
        nobody = Consumer(self.name, "", "")
        done = await self.store.finish(
            self.name,
            Delivery(item, 0),
            nobody,
            outcome.result,
            sink=sink_of(self.name),
            failed=outcome.failed,
            dead=outcome.dead,
            callback=outcome.callback,
        )
        self.settled.tell(self.name, None, lambda index: index == item.index)
        return done

    def queue_of(self, sub_path: str, *, rear: bool) -> str:
        """The queue that a path below the service's address names: only `sink` is another one than the input."""
        if rear:
            return rear_of(self.name)
        return sink_of(self.name) if self.is_sink(sub_path) else self.name

    @staticmethod
    def is_sink(sub_path: str) -> bool:
        return sub_path.rstrip("/") == "sink"

    async def commit(self, queue: str, group: str, indexes: Iterable[int]) -> None:
        done = set(indexes)
        await self.store.commit(queue, group, sorted(done))
        self.settled.tell(queue, group, done.__contains__)

    async def delete(self, queue: str, indexes: Iterable[int]) -> None:
        gone = set(indexes)
        await self.store.delete(queue, sorted(gone))
        self.settled.tell(queue, None, gone.__contains__)

    async def truncate(self, queue: str, below: int) -> None:
        await self.store.truncate(queue, below)
        self.settled.tell(queue, None, lambda index: index < below)

    async def see_off(self, farewell: Coroutine[Any, Any, None]) -> None:
        """Awaits what must be done to the end even when the caller is cancelled; the store stays open for it."""
        task = asyncio.create_task(farewell)
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)
        await asyncio.shield(task)

    async def _try_to_open(self) -> None:
        try:
            await self._store.open()
        except StoreUnavailable as error:
            if error.message != self._obstacle:  # one line, not one per try
                log.error("the queue's store %s cannot be opened: %s", self.settings.shown_url, error.message)
            self._obstacle = error.message
        else:
            self._open = True
            log.info("the queue %s is kept in %s", self.name, self.settings.shown_url)

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS if self._open else RETRY_SECONDS)
            if not self._open:
                await self._try_to_open()
                continue
            try:
                await self._store.sweep(retention=self.settings.retention, lease=self.settings.lease)
            except SdWebUIError as error:
                log.warning("the queue could not be swept: %s", error.message)
            except Exception:
                log.exception("the queue could not be swept")  # a bug; what waits must not suffer from it
