"""Results on their way to a `callback_url`: sent at least once, with growing pauses, for a day.

A callback is an item of its own queue, written in the transaction that wrote the result. One that failed is parked:
its lease is set to the end of the pause, after which whoever runs a dispatcher gets it again. So nothing is lost
with a process, and no process has to remember anything.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote, urlsplit

import httpx

from sdwebui_api.errors import SdWebUIError
from sdwebui_api.queueing.call import CALLBACK_URL, public_tags
from sdwebui_api.queueing.consuming import ConsumerLoop, FindStore
from sdwebui_api.queueing.model import Delivery, Item, NewItem, callbacks_of, rear_of
from sdwebui_api.queueing.outcome import DEAD_REASON

log = logging.getLogger(__name__)

GROUP = "callbacks"
GONE = 410
IDLE_SECONDS = 5.0


class Sends(Protocol):
    """`storage.callback_sender.CallbackSender`."""

    async def send(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        """The answer's status. Raises BadRequest when the address may not be called, httpx.HTTPError."""
        ...


@dataclass(frozen=True)
class CallbackRules:
    service: str
    room: int = 16
    """Calls side by side."""
    lease: float = 60.0
    """Of an attempt; above the sender's own time limits."""
    first_pause: float = 2.0
    longest_pause: float = 3600.0
    give_up_after: float = 86_400.0
    """Seconds from the result; then the callback becomes a dead letter."""

    def pause(self, attempt: int) -> float:
        """After the `attempt`-th failure: doubled each time, and a little random so that crowds disperse."""
        return min(self.first_pause * 2.0 ** min(attempt - 1, 30), self.longest_pause) * random.uniform(0.8, 1.2)


class CallbackDispatcher(ConsumerLoop):
    """Any number may run, in any number of processes."""

    def __init__(self, store: FindStore, sender: Sends, rules: CallbackRules) -> None:
        super().__init__(store, callbacks_of(rules.service), GROUP, window=rules.room, lease=rules.lease)
        self.rules = rules
        self._sender = sender
        self._running: dict[int, asyncio.Task[None]] = {}
        self._freed = asyncio.Event()
        self._silent: dict[str, float] = {}
        """Hosts that did not answer, until when (monotonic) they are left alone: a dead one must not keep all rooms."""

    async def _turn(self) -> None:
        self._freed.clear()
        room = self.rules.room - len(self._running)
        if room <= 0:
            await self._wait_for(self._freed.wait())
            return
        seen = await self._store.wait(self._queue, -1, 0)
        deliveries = await self._store.take(self._queue, self._consumer, room, lease=self.rules.lease)
        for delivery in deliveries:
            self._running[delivery.item.index] = asyncio.create_task(self._work(delivery))
        if len(deliveries) < room:
            await self._wait_for(self._store.wait(self._queue, seen, IDLE_SECONDS))

    def _indexes(self) -> list[int]:
        return list(self._running)

    async def _wind_up(self) -> None:
        """Attempts that run are waited for. What is parked stays parked: no `leave`, which would free it at once."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=10.0)

    # -- one callback ------------------------------------------------------------------------------

    async def _work(self, delivery: Delivery) -> None:
        index = delivery.item.index
        pause: float | None = None
        try:
            pause = await self._attempt(delivery)
            if pause is None:
                await self._store.commit(self._queue, GROUP, [index])
        except SdWebUIError as error:
            log.warning("callback %d is tried again later: %s", index, error.message)
        except Exception:
            log.exception("callback %d is tried again later", index)
        finally:
            # No longer renewed by the heartbeat, which would shorten the pause.
            self._running.pop(index, None)
            self._freed.set()
        if pause is not None:
            await self._park(index, pause)

    async def _park(self, index: int, pause: float) -> None:
        try:
            await self._store.renew(self._queue, self._consumer, [index], lease=pause)
        except SdWebUIError as error:
            log.info("callback %d comes back when its lease ends: %s", index, error.message)

    async def _attempt(self, delivery: Delivery) -> float | None:
        """None: done with it. Else the pause before the next attempt."""
        item = delivery.item
        url = item.tags.get(CALLBACK_URL, "")
        host = _host(url)
        left_alone = self._silent.get(host, 0.0) - time.monotonic()
        if left_alone > 0:
            return left_alone + random.uniform(0.0, 1.0)
        problem = await self._problem(item, url, host, delivery.count)
        if problem is None:
            return None
        if problem.final or time.time() - item.created > self.rules.give_up_after:
            await self._give_up(item, url, problem.text)
            return None
        pause = self.rules.pause(delivery.count)
        log.info("callback of %s to %r: %s; again in %.0f s", item.request_id, host, problem.text, pause)
        return pause

    async def _problem(self, item: Item, url: str, host: str, attempt: int) -> _Problem | None:
        headers = {"Content-Type": "application/json", "X-Request-Id": quote(item.request_id)}
        try:
            status = await self._sender.send(url, item.data, headers)
        except SdWebUIError as error:
            return _Problem(error.message, final=True)
        except (httpx.HTTPError, OSError) as error:
            self._leave_alone(host, attempt)
            return _Problem(f"{type(error).__name__}: {error}")
        self._silent.pop(host, None)
        return None if 200 <= status < 300 else _Problem(f"it answered {status}", final=status == GONE)

    def _leave_alone(self, host: str, attempt: int) -> None:
        now = time.monotonic()
        self._silent = {name: until for name, until in self._silent.items() if until > now}
        self._silent[host] = now + min(self.rules.pause(attempt), 60.0)

    async def _give_up(self, item: Item, url: str, reason: str) -> None:
        log.warning("callback of %s to %r is given up: %s", item.request_id, url[:200], reason)
        tags = {**public_tags(item.tags), DEAD_REASON: f"callback to {url}: {reason}"}
        await self._store.put(rear_of(self.rules.service), NewItem(item.data, tags, item.priority))


def _host(url: str) -> str:
    """Empty for what is no address; the sender refuses it."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


@dataclass(frozen=True)
class _Problem:
    text: str
    final: bool = False
    """Another attempt would end the same way."""
