"""Watchers: a client is sent the items of a queue as they come, as many as its window has room for.

`Watch` knows the store and the window; `watch_websocket` and `WatchStream` are its two ways to a client.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from sdwebui_api.queueing.frames import frame, record
from sdwebui_api.queueing.identity import Identity
from sdwebui_api.queueing.model import Consumer, Delivery, Item
from sdwebui_api.queueing.query import Query
from sdwebui_api.queueing.reading import hung_up
from sdwebui_api.queueing.service import QueueService
from sdwebui_api.queueing.store import Replaced, StoreUnavailable, StreamEnded

log = logging.getLogger(__name__)

BATCH = 128
"""Items taken at once: what an auto-committing client that vanishes can at most have missed."""
BATCH_BYTES = 4 * 2**20
"""Large results are taken fewer at a time."""
REPLACED_SECONDS = 1.0
"""Before a replaced connection is closed: its client, if it lives, comes back at once and replaces in turn."""
LOOK_SECONDS = (0.02, 1.0)
"""Between two questions what of a full window is still held; longer while nothing changes."""
SETTLED_SECONDS = 0.25
"""A client whose commits reach this process is not looked up in the store for so long after one."""
BELL_SECONDS = 10.0
OUTAGE_SECONDS = (0.1, 1.0)
ENDED, REPLACED, RESTARTING = 1000, 4009, 1012
"""Close codes."""


@dataclass(frozen=True)
class WatchOrder:
    queue: str
    identity: Identity
    start: int
    window: int
    index_only: bool
    auto_commit: bool
    tags: dict[str, str]

    @classmethod
    def parse(cls, queue: str, identity: Identity, query: Query) -> WatchOrder:
        return cls(
            queue,
            identity,
            query.whole("_index_", 0, least=-1),
            query.whole("_window_", 1, least=1),
            query.flag("_index_only_"),
            query.flag("_auto_commit_"),
            dict(query.tags),
        )

    def consumer(self) -> Consumer:
        return Consumer(
            self.identity.group,
            self.identity.user,
            uuid.uuid4().hex,
            self.window,
            self.auto_commit,
            self.start,
            self.tags,
        )


class Watch:
    """One connection of a consumer, from `async with` (registered in the store) to its end (what it held is free)."""

    def __init__(self, service: QueueService, order: WatchOrder) -> None:
        self._service = service
        self._order = order
        self._queue = order.queue
        self._consumer = order.consumer()
        # Committed here once sent, not by the store when taken: a front end that dies in between loses nothing.
        self._taker = replace(self._consumer, auto_commit=False)
        self._lease = service.settings.lease
        self._pending: set[int] = set()
        self._sent: list[int] = []
        self._first: list[Delivery] = []
        self._batch = 1
        self._wake = asyncio.Event()
        self._rang = False
        self._looked = self._settled = float("-inf")
        self._look_pause = LOOK_SECONDS[0]
        self._lost: BaseException | None = None
        self._stop_listening: Callable[[], None] = lambda: None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Raises StoreUnavailable and StreamEnded: a client that is refused now waits before it comes back."""
        store = self._service.store
        await store.join(self._queue, self._consumer)
        try:
            self._first = await self._take(1)
        except BaseException:
            await self._service.see_off(self._leave())
            raise
        self._stop_listening = self._service.settled.listen(self._on_settled)
        self._tasks = [
            asyncio.create_task(self._bell(), name="watch bell"),
            asyncio.create_task(self._beat(), name="watch lease"),
            asyncio.create_task(self._until_closing(), name="watch closing"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._on_end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop_listening()
        for task in self._tasks:
            task.cancel()
        await self._service.see_off(self._leave())

    async def items(self) -> AsyncIterator[Item]:
        """Until somebody replaces this consumer (Replaced), the stream is over (StreamEnded) or the server stops. An
        item counts as sent when the next one is asked for."""
        pause = OUTAGE_SECONDS[0]
        while not self._service.closing.is_set():
            self._wake.clear()
            try:
                await self._commit_sent()
                batch = await self._next_batch()
                pause = OUTAGE_SECONDS[0]
            except StoreUnavailable as error:
                log.warning("a watcher of %s waits for the store: %s", self._queue, error.message)
                await asyncio.sleep(pause)
                pause = min(2 * pause, OUTAGE_SECONDS[1])
                continue
            for delivery in batch:
                yield delivery.item
                self._sent.append(delivery.item.index)
            if not batch and not self._sent:
                await self._pause()

    # -- taking --------------------------------------------------------------------------------------

    async def _next_batch(self) -> list[Delivery]:
        """What fits into the window; empty when nothing does, or nothing is there."""
        if self._lost is not None:
            raise self._lost
        if self._first:
            batch, self._first = self._first, []
            return batch
        if self._room() <= 0:
            await self._look()
        room = min(self._room(), self._batch)
        return await self._take(room) if room > 0 else []

    async def _take(self, limit: int) -> list[Delivery]:
        batch = await self._service.store.take(
            self._queue, self._taker, limit, lease=self._lease, index_only=self._order.index_only
        )
        self._pending.update(delivery.item.index for delivery in batch)
        if batch:
            mean = sum(len(delivery.item.data) for delivery in batch) // len(batch)
            self._batch = max(1, min(BATCH, BATCH_BYTES // max(1, mean)))
        return batch

    def _room(self) -> int:
        return BATCH if self._order.auto_commit else self._order.window - len(self._pending)

    async def _commit_sent(self) -> None:
        if self._order.auto_commit and self._sent:
            await asyncio.shield(self._service.commit(self._queue, self._consumer.group, self._sent))
        self._sent = []

    # -- news ----------------------------------------------------------------------------------------

    def _on_settled(self, queue: str, group: str | None, gone: Callable[[int], bool]) -> None:
        if queue != self._queue or group not in (None, self._consumer.group):
            return
        left = {index for index in self._pending if not gone(index)}
        if len(left) < len(self._pending):
            self._pending = left
            self._settled = time.monotonic()
            self._wake.set()

    async def _look(self) -> None:
        """Asks the store what of the full window is still held: a commit may have gone to another front end."""
        now = time.monotonic()
        if self._rang and now - self._looked >= self._look_pause and now - self._settled >= SETTLED_SECONDS:
            self._looked, self._rang = now, False
            changed = await self._renew()
            self._look_pause = LOOK_SECONDS[0] if changed else min(2 * self._look_pause, LOOK_SECONDS[1])

    async def _renew(self) -> bool:
        """Whether something is held no longer."""
        asked = sorted(self._pending)
        held = await self._service.store.renew(self._queue, self._taker, asked, lease=self._lease)
        lost = set(asked).difference(held)
        if lost:
            self._pending -= lost
            self._wake.set()
        return bool(lost)

    async def _pause(self) -> None:
        timeout = BELL_SECONDS
        if self._rang and self._room() <= 0:
            timeout = max(self._look_pause, self._settled + SETTLED_SECONDS - time.monotonic())
        # Not wait_for: before Python 3.12 it forgets that it was cancelled when the event comes at that moment.
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wake.wait()

    # -- beside the items ----------------------------------------------------------------------------

    async def _bell(self) -> None:
        """Wakes `items` when the queue changes."""
        seen = -1
        while True:
            try:
                now = await self._service.store.wait(self._queue, seen, 0.0 if seen < 0 else BELL_SECONDS)
            except StoreUnavailable:
                await asyncio.sleep(OUTAGE_SECONDS[1])
                continue
            if now != seen:
                seen, self._rang = now, True
                self._wake.set()

    async def _beat(self) -> None:
        """Keeps the leases and the registration alive, also while the client reads slowly."""
        while self._lost is None:
            await asyncio.sleep(self._lease / 3)
            try:
                await self._renew()
            except StoreUnavailable:
                continue  # `items` says so; the next beat follows soon
            except Replaced as error:
                self._lost = error
                self._wake.set()

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """A bug in one of the tasks must not leave a watcher that waits for ever, or without its leases."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._lost = error
            self._wake.set()

    async def _until_closing(self) -> None:
        await self._service.closing.wait()
        self._wake.set()

    async def _leave(self) -> None:
        try:
            await self._commit_sent()
            await self._service.store.leave(self._queue, self._consumer)
        except StoreUnavailable as error:
            log.warning("a watcher of %s could not sign off, its lease will end: %s", self._queue, error.message)


async def watch_websocket(service: QueueService, order: WatchOrder, socket: WebSocket) -> None:
    """One binary message per item. Raises StoreUnavailable and StreamEnded before the handshake is accepted."""
    async with Watch(service, order) as watch:
        await socket.accept()
        log.info("watching %s: %s.%s", order.queue, order.identity.group, order.identity.user)

        async def send(item: Item) -> None:
            await socket.send_bytes(frame(item, with_data=not order.index_only))

        code = await _first_of(_send_all(watch, send), hung_up(socket.receive, "websocket.disconnect"))
        if code is not None:
            with suppress(WebSocketDisconnect, RuntimeError):  # the client was quicker
                await socket.close(code)
    log.info("no longer watching %s: %s.%s", order.queue, order.identity.group, order.identity.user)


async def _send_all(watch: Watch, send: Callable[[Item], Awaitable[None]]) -> int | None:
    """The code to close with; None: the client has gone."""
    try:
        async for item in watch.items():
            await send(item)
    except (WebSocketDisconnect, OSError):
        return None
    except StreamEnded:
        return ENDED
    except Replaced:
        await asyncio.sleep(REPLACED_SECONDS)
        return REPLACED
    return RESTARTING


async def _first_of(*parts: Coroutine[Any, Any, int | None]) -> int | None:
    """What the first part to end returns (or raises); the others are cancelled."""
    tasks: Sequence[asyncio.Task[int | None]] = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class WatchStream(Response):
    """The form without an upgrade: one endless body of records. Raises as `watch_websocket` does, before it starts."""

    def __init__(self, service: QueueService, order: WatchOrder) -> None:
        super().__init__(media_type="application/octet-stream")
        del self.headers["content-length"]
        self._service = service
        self._order = order

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with Watch(self._service, self._order) as watch:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b"", "more_body": True})

            async def send_record(item: Item) -> None:
                body = record(item, with_data=not self._order.index_only)
                await send({"type": "http.response.body", "body": body, "more_body": True})

            if await _first_of(_send_all(watch, send_record), hung_up(receive)) is not None:
                await send({"type": "http.response.body", "body": b""})
