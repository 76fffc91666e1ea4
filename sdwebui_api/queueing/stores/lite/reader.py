"""Reading beside the writing thread: two threads, each with its own connection."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sdwebui_api.queueing.store import StoreUnavailable
from sdwebui_api.queueing.stores.lite.schema import Link, unavailable

THREADS = 2
Result = TypeVar("Result")


class Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads: ThreadPoolExecutor | None = None
        self._local = threading.local()
        self._links: list[Link] = []

    def start(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "queue-reader", initializer=self._connect)

    def _connect(self) -> None:
        self._local.link = link = Link(self._path, writes=False)
        self._links.append(link)

    async def stop(self) -> None:
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(threads.shutdown)
        while self._links:
            self._links.pop().drop()

    async def do(self, work: Callable[[sqlite3.Connection, float], Result]) -> Result:
        """`work(connection, now)`, in one snapshot. Raises StoreUnavailable."""
        if self._threads is None:
            raise StoreUnavailable(f"The queue file {self._path} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._perform, work)

    def _perform(self, work: Callable[[sqlite3.Connection, float], Result]) -> Result:
        link: Link = self._local.link
        try:
            db = link.get()
            db.execute("BEGIN")
            try:
                return work(db, time.time())
            finally:
                db.execute("ROLLBACK")
        except (sqlite3.Error, OSError) as error:
            with contextlib.suppress(sqlite3.Error):
                link.drop()
            raise unavailable(self._path, error) from error
