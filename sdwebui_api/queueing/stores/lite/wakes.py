"""Waiting for something to take.

Every queue has a number in the file that grows with each change that may have made something takeable. Changes of this
process are announced when they are on the disk; for those of others, and for leases that run out, the file is looked
at every POLL seconds as long as anybody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from sdwebui_api.queueing.store import StoreUnavailable

log = logging.getLogger(__name__)

POLL = 0.04
"""Seconds; a change by another process is noticed within 50 ms."""
POLL_UNAVAILABLE = 0.5


class Wakes:
    """`look` reads the numbers of all queues from the file."""

    def __init__(self, look: Callable[[], Awaitable[Mapping[str, int]]]) -> None:
        self._look = look
        self._numbers: dict[str, int] = {}
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._looking: asyncio.Task[None] | None = None

    def announce(self, numbers: Mapping[str, int]) -> None:
        for queue, number in numbers.items():
            if number > self.known(queue):
                self._numbers[queue] = number
                for waiter in self._waiting.get(queue, ()):
                    if not waiter.done():
                        waiter.set_result(None)

    def known(self, queue: str) -> int:
        return self._numbers.get(queue, 0)

    def correct(self, queue: str, known: int, read: int) -> None:
        """`read` was found in the file after `known` was known. It is smaller in another file alone, put in the place
        of the first: whoever compares with the old number would never have to wait again."""
        if read < known == self.known(queue):
            self._numbers[queue] = read

    async def wait(self, queue: str, seen: int, timeout: float) -> int:
        try:
            async with asyncio.timeout(timeout):
                while (known := self.known(queue)) <= seen:
                    await self._next(queue)
                return known
        except TimeoutError:
            return seen

    async def _next(self, queue: str) -> None:
        """Returns at the next number of `queue` that this process had not known; another reader may have seen it."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(queue, set())
        waiters.add(waiter)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._keep_looking())
        try:
            await waiter
        finally:
            waiters.discard(waiter)

    async def _keep_looking(self) -> None:
        while any(self._waiting.values()):
            try:
                self.announce(await self._look())
                pause = POLL
            except StoreUnavailable:  # whoever takes next is told; the writer has logged it
                pause = POLL_UNAVAILABLE
            await asyncio.sleep(pause)

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking
