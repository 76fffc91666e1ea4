"""A job's changes as an asynchronous stream, for server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sdwebui_api.jobs.job import Job, Progress, call_on


async def changes(job: Job, *, idle_seconds: float = 15.0, min_interval: float = 0.1) -> AsyncIterator[Progress | None]:
    """A snapshot now and after changes; ends after the snapshot of the finished job.

    Changes that come faster than `min_interval` are merged: a slow reader sees the newest, never a backlog.
    None is yielded after `idle_seconds` without a change, so that the door can keep its connection alive.
    """
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    remove = job.add_listener(lambda: call_on(loop, changed.set))
    try:
        while True:
            changed.clear()
            live = job.live
            yield job.snapshot()
            if not live:
                return
            await asyncio.sleep(min_interval)
            while not await _set_within(changed, idle_seconds):
                yield None
    finally:
        remove()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):  # wait_for may swallow a cancellation before Python 3.12
            await event.wait()
    except TimeoutError:
        return False
    return True
