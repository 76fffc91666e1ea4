"""The consumers that run inside this process beside the application: worker and callback dispatcher."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sdwebui_api.queueing.consuming import ConsumerLoop

log = logging.getLogger(__name__)

Hire = Callable[[Any], Sequence[ConsumerLoop]]
"""Makes the loops for an ASGI application; called on its event loop."""


class Staff:
    """Runs what `hire` makes for as long as the application lives; may be stopped earlier from any thread."""

    def __init__(self, hire: Hire) -> None:
        self._hire = hire
        self._loops: Sequence[ConsumerLoop] = ()
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._ended = threading.Event()

    @asynccontextmanager
    async def beside(self, app: Any) -> AsyncIterator[None]:
        """Starts; at the end stops and waits until everything was finished or handed back."""
        self._event_loop = asyncio.get_running_loop()
        self._loops = self._hire(app)
        work = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._stop()
            await work

    async def _run(self) -> None:
        try:
            await asyncio.gather(*(loop.run() for loop in self._loops))
        finally:
            self._ended.set()

    def _stop(self) -> None:
        for loop in self._loops:
            loop.stop()

    def stop(self) -> None:
        """Takes nothing more from now on; from any thread. No effect before the start."""
        if self._event_loop is not None:
            try:
                self._event_loop.call_soon_threadsafe(self._stop)
            except RuntimeError:
                log.debug("the event loop has ended already")

    def wait(self, timeout: float) -> bool:
        """Blocks until everything has ended after `stop`. True at once when nothing ever started."""
        return self._event_loop is None or self._ended.wait(timeout)
