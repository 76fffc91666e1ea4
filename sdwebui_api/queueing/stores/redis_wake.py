"""Learns that a queue has changed, here or in another process, and wakes those who wait for it.

Every change raises the queue's number and publishes it; one connection of this process listens to all queues. As a net
under that, a queue that somebody waits for is looked at once a second, and when a lease ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from redis import exceptions
from redis.asyncio.connection import AbstractConnection

from sdwebui_api.queueing.store import StoreUnavailable
from sdwebui_api.queueing.stores.redis_keys import PREFIX, wake_channel
from sdwebui_api.queueing.stores.redis_link import maker_of_connections

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
LISTEN_SECONDS = 5.0
"""After so long a silence the server is asked for a sign of life."""
RECONNECT_SECONDS = 0.2

Peek = Callable[[str], Awaitable[tuple[int, float | None]]]
"""The number of a queue, and in how many seconds its first lease ends. Raises StoreUnavailable."""


class _Queue:
    """What this process knows of one queue."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.changed = asyncio.Event()
        self.lease_ends: float | None = None
        """By the monotonic clock."""
        self.lease_news = asyncio.Event()
        self.waiters = 0
        self.lookout: asyncio.Task[None] | None = None

    def set(self, number: int) -> None:
        self.number = number
        self.changed.set()
        self.changed = asyncio.Event()

    def expect_lease(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        if self.lease_ends is None or ends < self.lease_ends:
            self.lease_ends = ends
            self.lease_news.set()


class Wakes:
    """Numbers of queues that change whenever something may have become takeable."""

    def __init__(self, url: str, peek: Peek) -> None:
        self._kind, self._options = maker_of_connections(url)
        self._database = int(self._options.get("db", 0))
        self._peek = peek
        self._queues: dict[str, _Queue] = {}
        self._names: dict[bytes, str] = {}
        self._listener: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    async def open(self) -> None:
        """Begins to listen; returns when nothing can be missed any more, or after a second without Redis."""
        self._listener = asyncio.create_task(self._listen_forever())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._listening.wait(), 1.0)

    async def close(self) -> None:
        tasks = [queue.lookout for queue in self._queues.values()] + [self._listener]
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)

    def note(self, queue: str, number: int) -> None:
        """`number` was in an answer of Redis."""
        known = self._queue(queue)
        if known is None:
            self._add(queue, number)
        elif number > known.number:
            known.set(number)

    async def wait(self, queue: str, seen: int, timeout: float) -> int:
        """As QueueStore.wait."""
        known = self._queue(queue) or await self._first_look(queue)
        deadline = time.monotonic() + timeout
        known.waiters += 1
        try:
            if known.lookout is None or known.lookout.done():
                known.lookout = asyncio.create_task(self._look_out(queue, known))
            while known.number == seen and (left := deadline - time.monotonic()) > 0:
                # Not wait_for: before Python 3.12 it forgets that it was cancelled when the event comes just then.
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await known.changed.wait()
        finally:
            known.waiters -= 1
        return known.number

    def _queue(self, queue: str) -> _Queue | None:
        return self._queues.get(queue)

    def _add(self, queue: str, number: int) -> _Queue:
        known = self._queues.setdefault(queue, _Queue(number))
        self._names[wake_channel(queue, self._database).encode()] = queue
        return known

    async def _first_look(self, queue: str) -> _Queue:
        try:
            number, lease = await self._peek(queue)
        except StoreUnavailable:
            number, lease = 0, None
        known = self._add(queue, number)
        if lease is not None:
            known.expect_lease(lease)
        return known

    # -- the net -------------------------------------------------------------------------------------

    async def _look_out(self, queue: str, known: _Queue) -> None:
        """Looks at the queue while somebody waits for it, at once and then now and again."""
        with suppress(StoreUnavailable):
            await self._look(queue, known)
        while known.waiters:
            pause = LOOK_SECONDS
            if known.lease_ends is not None:
                pause = min(pause, max(0.0, known.lease_ends - time.monotonic()))
            known.lease_news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause + 0.001):
                    await known.lease_news.wait()
                continue
            with suppress(StoreUnavailable):
                await self._look(queue, known)

    async def _look(self, queue: str, known: _Queue) -> None:
        known.lease_ends = None
        before = known.number
        number, lease = await self._peek(queue)
        if lease is not None:
            known.expect_lease(lease)
        # A smaller number: that Redis lost its newest writes. Unless a message overtook the answer.
        if number > known.number or number < before == known.number:
            known.set(number)

    # -- messages ------------------------------------------------------------------------------------

    async def _listen_forever(self) -> None:
        while True:
            connection = self._kind(**self._options)
            try:
                await self._listen(connection)
            except (exceptions.RedisError, OSError, EOFError) as error:
                log.debug("the queue's messages are interrupted: %s", error)
            finally:
                self._listening.clear()
                with suppress(exceptions.RedisError, OSError):
                    await connection.disconnect(nowait=True)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self, connection: AbstractConnection) -> None:
        await connection.connect()
        await connection.send_command("PSUBSCRIBE", f"{PREFIX}*")
        asked = False
        while True:
            message = await connection.read_response(timeout=LISTEN_SECONDS)
            if message is None and asked:
                raise exceptions.TimeoutError("no sign of life")
            asked = message is None
            if asked:
                await connection.send_command("PING")
            else:
                self._receive(message)

    def _receive(self, message: list[Any]) -> None:
        if message[0] == b"psubscribe":
            self._listening.set()
            # What happened while nobody listened is found by looking.
            for known in self._queues.values():
                known.expect_lease(0)
        elif message[0] == b"pmessage" and message[2] in self._names:
            known = self._queues[self._names[message[2]]]
            number, _, lease = message[3].partition(b" ")
            if int(number) > known.number:
                known.set(int(number))
            if lease:
                known.expect_lease(int(lease) / 1000)
