"""The worker: takes requests from the queue, has the application answer them, writes the answers to the sink.

Nothing is acknowledged before its result is stored, and both happen in one transaction (`store.finish`). What a
worker holds it holds on a lease that it renews while it works; when it dies, the items come back to the others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from sdwebui_api.errors import BadRequest, SdWebUIError
from sdwebui_api.queueing.call import USER, QueuedCall, public_tags
from sdwebui_api.queueing.consuming import ConsumerLoop, FindStore
from sdwebui_api.queueing.inprocess import Answer
from sdwebui_api.queueing.model import Delivery, sink_of
from sdwebui_api.queueing.outcome import (
    FailureBody,
    Outcome,
    given_up,
    outcome_of,
    refused,
    without_callback,
)
from sdwebui_api.queueing.store import QueueFull, StoreUnavailable

log = logging.getLogger(__name__)

HAND_BACK_SECONDS = 10.0
"""Beyond the drain: for results that are being written, and for giving back the rest."""
SINK_CHECK_SECONDS = 1.0
WANTED_CHECK_SECONDS = 1.0
"""Between two looks whether what is being worked on is still wanted: one small read for each request in hand."""
ROOM_POLL_SECONDS = 0.1
IDLE_SECONDS = 5.0
BUSY, UNAVAILABLE, CANCELLED = 429, 503, 499
RETRY_SECONDS = 1.0


class Calls(Protocol):
    """`InProcess`, or a stand-in."""

    async def post(self, path: str, body: bytes, call: QueuedCall) -> Answer: ...


@dataclass(frozen=True)
class WorkerRules:
    service: str
    room: int
    """Requests side by side."""
    lease: float = 30.0
    max_delivery: int = 1
    drain_seconds: float = 120.0
    max_sink_length: int | None = None
    default_path: str = "sdapi/v1/txt2img"
    patience: float = 60.0
    """Seconds a request is offered again to an application that answers 503."""


CheckCallback = Callable[[str], Awaitable[None]]


async def _any_callback(url: str) -> None:
    return


class _Held:
    """An item in hand."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.answered = False
        """The result exists; only storing it is left."""
        self.task: asyncio.Task[None] | None = None

    @property
    def index(self) -> int:
        return self.delivery.item.index

    @property
    def request_id(self) -> str:
        return self.delivery.item.request_id

    def cancel(self) -> bool:
        """Ends the computation; a result that exists is still stored."""
        return self.task is not None and not self.answered and self.task.cancel()


class Worker(ConsumerLoop):
    """Several may share a queue, in any number of processes.

    `foreign(ids)`: how many jobs run here that are none of the requests `ids`; they take from the room, but one
    place always stays. `ready()`: False while models are being loaded. `check_callback(url)` raises BadRequest for a
    `callback_url` that may not be called: such a request is not carried out.
    """

    def __init__(
        self,
        store: FindStore,
        application: Calls,
        rules: WorkerRules,
        failure: FailureBody,
        *,
        foreign: Callable[[Collection[str]], int] = lambda ids: 0,
        ready: Callable[[], bool] = lambda: True,
        check_callback: CheckCallback | None = None,
    ) -> None:
        super().__init__(store, rules.service, rules.service, window=rules.room, lease=rules.lease)
        self.rules = rules
        self._application = application
        self._failure = failure
        self._foreign = foreign
        self._ready = ready
        self._check_callback = check_callback or _any_callback
        self._held: dict[int, _Held] = {}
        self._freed = asyncio.Event()
        self._sink_checked = float("-inf")
        self._sink_full = False

    @property
    def active(self) -> int:
        """Requests in hand."""
        return len(self._held)

    async def run(self) -> None:
        looking = asyncio.create_task(self._look_for_unwanted())
        try:
            await super().run()
        finally:
            looking.cancel()

    # -- taking ------------------------------------------------------------------------------------

    async def _turn(self) -> None:
        self._freed.clear()
        if not self._ready():
            await self._sleep(ROOM_POLL_SECONDS)
        elif await self._sink_is_full():
            await self._sleep(SINK_CHECK_SECONDS)
        elif (room := self._room()) > 0:
            await self._take(room)
        else:
            await self._wait_for(self._freed.wait(), ROOM_POLL_SECONDS if self.active < self.rules.room else None)

    async def _take(self, room: int) -> None:
        seen = await self._store.wait(self._queue, -1, 0)
        deliveries = await self._store.take(self._queue, self._consumer, room, lease=self.rules.lease)
        for delivery in deliveries:
            self._begin(delivery)
        if len(deliveries) < room:
            await self._wait_for(self._store.wait(self._queue, seen, IDLE_SECONDS))

    def _room(self) -> int:
        """Jobs of the other doors take from it, but for one place: the queue never starves."""
        ours = [held.request_id for held in self._held.values()]
        return max(1, self.rules.room - self._foreign(ours)) - self.active

    async def _sink_is_full(self) -> bool:
        limit = self.rules.max_sink_length
        now = time.monotonic()
        if limit is not None and now - self._sink_checked >= SINK_CHECK_SECONDS:
            stats = await self._store.stats(sink_of(self._queue), consumers=False)
            full = stats.length >= limit
            if full and not self._sink_full:
                log.warning("the sink holds %d results: nothing is taken until some are read", stats.length)
            self._sink_checked, self._sink_full = now, full
        return self._sink_full

    # -- one item ----------------------------------------------------------------------------------

    def _begin(self, delivery: Delivery) -> None:
        running = self._held.get(delivery.item.index)
        if running is not None:
            # Its lease ran out while this process was held up, and nobody else was there to take it.
            running.delivery = delivery
            return
        held = _Held(delivery)
        self._held[held.index] = held
        held.task = asyncio.create_task(self._work(held), name=f"item-{held.index}")

    async def _work(self, held: _Held) -> None:
        try:
            outcome = await self._outcome(held.delivery)
            if outcome is not None:
                held.answered = True
                await self._put_away(held, outcome)
            self._let_go(held)
        except asyncio.CancelledError:
            self._let_go(held)
            raise
        except Exception:
            # The lease is not renewed any more: the item comes back, and is given up in the end.
            log.exception("request %s could not be finished", held.request_id)
            self._let_go(held, forget=True)

    def _let_go(self, held: _Held, *, forget: bool = False) -> None:
        """While stopping, what has no result stays in hand until it is handed back (`_leave`)."""
        if forget or held.answered or not self.stopping:
            self._held.pop(held.index, None)
        self._freed.set()

    async def _outcome(self, delivery: Delivery) -> Outcome | None:
        """None: this worker stops and will not answer it."""
        item = delivery.item
        path = item.path or self.rules.default_path
        if delivery.count > self.rules.max_delivery:
            return given_up(delivery, self.rules.max_delivery, self._failure)
        body, callback_url = without_callback(item)
        try:
            if callback_url:
                await self._check_callback(callback_url)
        except BadRequest as error:
            return refused(item, error.status, f"callback_url: {error.message}", self._failure)
        call = QueuedCall(item.request_id, public_tags(item.tags), item.tags.get(USER))
        answer = await self._ask(path, body, call)
        return None if answer is None else outcome_of(item, answer, callback_url, self._failure)

    async def _ask(self, path: str, body: bytes, call: QueuedCall) -> Answer | None:
        """The application's answer, asked again while its line is full (429) or it is not there yet (503)."""
        end = time.monotonic() + self.rules.patience
        while True:
            answer = await self._application.post(path, body, call)
            if self.stopping and answer.status in (BUSY, UNAVAILABLE, CANCELLED):
                return None
            if answer.status not in (BUSY, UNAVAILABLE):
                return answer
            if answer.status == UNAVAILABLE and time.monotonic() > end:
                return answer
            await self._sleep(min(answer.retry_after or RETRY_SECONDS, 5.0))

    async def _put_away(self, held: _Held, outcome: Outcome) -> None:
        """Until the store has it, however long it is gone or full; meanwhile the item stays in hand."""
        while not await self._finished(held, outcome):
            await asyncio.sleep(0.5)

    async def _finished(self, held: _Held, outcome: Outcome) -> bool:
        try:
            written = await self._store.finish(
                self._queue,
                held.delivery,
                self._consumer,
                outcome.result,
                sink=sink_of(self._queue),
                failed=outcome.failed,
                dead=outcome.dead,
                callback=outcome.callback,
                # Who stops must put its results somewhere.
                max_sink_length=None if self.stopping else self.rules.max_sink_length,
            )
        except QueueFull:
            self._sink_full = True
            return False
        except StoreUnavailable as error:
            log.warning("the result of %s waits for the queue: %s", held.request_id, error.message)
            return False
        if not written:
            log.info("request %s had been finished or deleted already", held.request_id)
        return True

    # -- leases ------------------------------------------------------------------------------------

    def _indexes(self) -> list[int]:
        return list(self._held)

    async def _look_for_unwanted(self) -> None:
        """What was cancelled elsewhere would otherwise be computed until its lease is to be renewed."""
        while True:
            await asyncio.sleep(WANTED_CHECK_SECONDS)
            for index in list(self._held):
                try:
                    await self._lost(index)
                except SdWebUIError:
                    break  # the store is away: the heartbeat says so
                except Exception:
                    log.exception("whether request %d is still wanted could not be found out", index)

    async def _lost(self, index: int) -> None:
        """An item that is gone (deleted by a user, finished by another worker) need not be computed any further.

        One that another worker holds is: who finishes first wins.
        """
        held = self._held.get(index)
        found = await self._store.search(self._queue, index, group=self._queue, service_group=self._queue)
        if held and not found and held.cancel():
            log.info("request %s is not wanted any more", held.request_id)

    # -- the end -----------------------------------------------------------------------------------

    async def _wind_up(self) -> None:
        """Waits for what runs; hands back what takes too long, as if it had never been delivered."""
        log.info("%s stops: %d requests are running", self._consumer.id, self.active)
        await self._until_ended(self.rules.drain_seconds)
        for held in list(self._held.values()):
            held.cancel()
        await self._until_ended(HAND_BACK_SECONDS)
        try:
            await asyncio.wait_for(self._leave(), HAND_BACK_SECONDS)
        except (SdWebUIError, TimeoutError) as error:
            log.warning("what was running comes back when its lease ends: %s", error)

    async def _until_ended(self, seconds: float) -> None:
        tasks = {held.task for held in self._held.values() if held.task}
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    async def _leave(self) -> None:
        if self._held:
            log.info("%d requests are handed back", len(self._held))
            await self._store.release(self._queue, self._consumer, list(self._held))
        await self._store.leave(self._queue, self._consumer)
