"""What everything that consumes a queue for the server itself does: join, take turns, survive, stop."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Awaitable, Callable

from sdwebui_api.errors import SdWebUIError
from sdwebui_api.queueing.model import Consumer
from sdwebui_api.queueing.store import QueueStore, Replaced, StoreUnavailable, StreamEnded

log = logging.getLogger(__name__)

ENDED_SECONDS = 5.0
FindStore = Callable[[], QueueStore]
"""The store, once it could be opened; raises StoreUnavailable before."""


def consumer_name() -> str:
    """`<host>-<process>-<random>`: tells people where an item is being worked on."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class ConsumerLoop:
    """Takes turns (`_turn`, of the subclass) as a registered consumer of `queue` until `stop()`.

    Leases are renewed three times per `lease` seconds for what `_indexes` names. Store failures and bugs are logged
    and survived.
    """

    def __init__(self, store: FindStore, queue: str, group: str, *, window: int, lease: float) -> None:
        self._find_store = store
        self._queue = queue
        self._lease = lease
        self._stopping = asyncio.Event()
        self._obstacle: str | None = None
        """Why the store could not be reached at the last try, which the log has."""
        self._consumer = Consumer(group, consumer_name(), uuid.uuid4().hex, window=window)

    @property
    def _store(self) -> QueueStore:
        """Raises StoreUnavailable while there is none."""
        return self._find_store()

    @property
    def consumer(self) -> Consumer:
        return self._consumer

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        """`run` ends soon. To be called in the loop's thread."""
        self._stopping.set()

    async def run(self) -> None:
        """Works until stopped, then winds up."""
        beat = asyncio.create_task(self._heartbeat())
        try:
            joined = False
            while not self.stopping:
                joined = await self._survive(self._turn if joined else self._join, joined)
            await self._wind_up()
        finally:
            beat.cancel()

    # -- for the subclass --------------------------------------------------------------------------

    async def _turn(self) -> None:
        """Takes what there is room for, then waits (`_wait_for`) until there may be more to do."""
        raise NotImplementedError

    def _indexes(self) -> list[int]:
        """Items in hand."""
        raise NotImplementedError

    async def _lost(self, index: int) -> None:
        """The store does not count this item as held any more."""

    async def _wind_up(self) -> None:
        """After the last turn, while leases are still renewed."""

    # -- the loop ----------------------------------------------------------------------------------

    async def _join(self) -> None:
        await self._store.join(self._queue, self._consumer)
        log.info("%s consumes %s", self._consumer.id, self._queue)

    async def _survive(self, act: Callable[[], Awaitable[None]], joined: bool) -> bool:
        """Does it; whether this is a registered consumer afterwards."""
        try:
            await act()
        except Replaced:
            # Forgotten by the store after a long silence: nobody else has this name.
            return False
        except StreamEnded:
            await self._sleep(ENDED_SECONDS)
        except StoreUnavailable as error:
            self._note(error.message)
            await self._sleep(0.5)
            return joined
        except Exception:
            log.exception("%s stumbled", self._consumer.id)
            await self._sleep(1.0)
            return joined
        self._note(None)
        return True

    def _note(self, obstacle: str | None) -> None:
        """One line per change, not per try: twice a second is no help to a disk that is full."""
        if obstacle and obstacle != self._obstacle:
            log.warning("%s cannot be reached: %s", self._queue, obstacle)
        elif self._obstacle and not obstacle:
            log.info("%s is reached again", self._queue)
        self._obstacle = obstacle

    async def _wait_for(self, event: Awaitable[object], timeout: float | None = None) -> None:
        """Returns when `event` comes, at the timeout, or when the loop is stopped; raises what `event` raises."""
        waiting = asyncio.ensure_future(event)
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({waiting, stopped}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
        finally:
            waiting.cancel()
            stopped.cancel()

    async def _sleep(self, seconds: float) -> None:
        """Less when the loop is stopped meanwhile."""
        await self._wait_for(asyncio.sleep(seconds))

    # -- leases ------------------------------------------------------------------------------------

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            while not await self._renewed():
                await asyncio.sleep(min(1.0, self._lease / 10))

    async def _renewed(self) -> bool:
        indexes = self._indexes()
        try:
            kept = await self._store.renew(self._queue, self._consumer, indexes, lease=self._lease)
            for index in set(indexes) - set(kept):
                await self._lost(index)
        except Replaced:
            return True  # the loop notices it too, and joins again
        except SdWebUIError as error:
            if indexes or error.message != self._obstacle:
                log.warning("leases on %s could not be renewed: %s", self._queue, error.message)
            return False
        except Exception:
            log.exception("leases on %s could not be renewed", self._queue)
            return False
        return True
