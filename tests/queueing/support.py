"""Applications for workers to call, and short waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from sdwebui_api.queueing.call import QueuedCall
from sdwebui_api.queueing.consuming import ConsumerLoop
from sdwebui_api.queueing.inprocess import Answer
from sdwebui_api.queueing.model import Item
from sdwebui_api.queueing.store import QueueStore
from tests.support.fronts import PATIENCE


class Stage:
    """Answers calls with the next of `answers` (the last one again and again); waits while `gate` is closed."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers or [Answer(200, b'{"images": []}')])
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls: list[tuple[str, bytes, QueuedCall]] = []
        self.running = 0
        self.most = 0
        self.cancelled: list[str] = []

    async def post(self, path: str, body: bytes, call: QueuedCall) -> Answer:
        self.calls.append((path, body, call))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(call.request_id)
            raise
        finally:
            self.running -= 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body, _ in self.calls]


@asynccontextmanager
async def at_work(*loops: ConsumerLoop) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    try:
        yield
    finally:
        for loop in loops:
            loop.stop()
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)


async def until(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What `what()` (which may be a coroutine function) answers once it is true."""
    end = time.monotonic() + seconds
    while True:
        found = what()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.01)


async def result_of(store: QueueStore, request_id: str, queue: str, seconds: float = PATIENCE) -> Item:
    """The only item of `queue` with this request id."""
    found = await until(lambda: store.get(queue, length=10, request_id=request_id), seconds)
    assert len(found) == 1
    item: Item = found[0]
    return item
