"""The one thread of a process that writes, with group commit.

While a transaction is written to the disk, calls gather; all of them go into the next transaction, each in a savepoint
of its own, and one sync of the disk answers them all. Nothing is answered before its transaction is on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sdwebui_api.queueing.store import StoreUnavailable
from sdwebui_api.queueing.stores.lite.schema import HELD, PATIENCE, Link, patiently, unavailable

log = logging.getLogger(__name__)

MOST = 256
"""Calls in one transaction."""
CLOCK_STEP = 2.0
"""Seconds by which the wall clock must have jumped to be followed."""
YIELD = 0.001
"""Seconds left to other processes between two transactions, when they have been writing too."""

Result = TypeVar("Result")
# What goes wrong with one call and leaves the transaction as it is; any other error of sqlite fails all of it.
_OWN_FAULTS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)


@dataclass
class Transaction:
    """What a call works with. `woken`: queue name → its new number, announced once it is on the disk."""

    db: sqlite3.Connection
    now: float
    woken: dict[str, int] = field(default_factory=dict)


@dataclass
class _Call:
    work: Callable[[Transaction], Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None

    def answer(self) -> None:
        if self.future.done():  # its caller was cancelled; what was done stays done
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Writer:
    """`announce` is called on the event loop with what woke up, before the answers of that transaction."""

    def __init__(
        self, path: Path, announce: Callable[[Mapping[str, int]], None], *, patience: float = PATIENCE
    ) -> None:
        self._link = Link(path, writes=True, patience=patience)
        self._announce = announce
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._seen_version = 0
        self._clock_ahead: float | None = None
        """Of the monotonic clock, at the last transaction."""
        self._failing = False

    def start(self) -> None:
        """On the event loop that will call."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="queue-writer", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Answers what was asked before."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._calls.put(None)
        await asyncio.to_thread(thread.join)

    async def do(self, work: Callable[[Transaction], Result]) -> Result:
        """Runs `work` in a transaction of the writing thread and returns once that is on the disk.

        Raises what `work` raises (its changes are undone then) and StoreUnavailable. A caller that is cancelled does
        not stop its work.
        """
        if self._loop is None or self._thread is None:
            raise StoreUnavailable(f"The queue file {self._link.path} is closed")
        future: asyncio.Future[Result] = self._loop.create_future()
        self._calls.put(_Call(work, future))
        return await future

    # -- on the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while batch := self._next():
            woken = self._write(batch)
            self._publish(batch, woken)
        self._link.drop()

    def _next(self) -> list[_Call]:
        """What waits, at least one call; empty when there will be none any more."""
        first = self._calls.get()
        if first is None:
            return []
        batch = [first]
        with contextlib.suppress(queue.Empty):
            while len(batch) < MOST:
                call = self._calls.get_nowait()
                if call is None:
                    self._calls.put(None)
                    break
                batch.append(call)
        return batch

    def _write(self, batch: list[_Call]) -> dict[str, int]:
        try:
            db = self._link.get()
            self._begin(db)
            clock_ahead = self._follow_clock(db)
            woken: dict[str, int] = {}
            for call in batch:
                woken |= self._perform(db, call)
            db.execute("COMMIT")
        except Exception as error:  # whatever it is, the thread goes on: nobody else would answer
            self._fail(batch, error)
            return {}
        self._failing, self._clock_ahead = False, clock_ahead
        return woken

    def _begin(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if version != self._seen_version:
            self._seen_version = version
            time.sleep(YIELD)
        patiently(lambda: db.execute("BEGIN IMMEDIATE"), self._link.patience)

    def _follow_clock(self, db: sqlite3.Connection) -> float:
        """How far the wall clock is ahead now. When it was set, or the machine slept, leases move with it: whoever
        holds one lives, and nobody's work may count as given up for that alone. The process that notices first moves
        them for all."""
        ahead = time.time() - time.monotonic()
        if self._clock_ahead is not None and abs(ahead - self._clock_ahead) < CLOCK_STEP:
            return ahead
        known = db.execute("SELECT ahead FROM clock").fetchone()
        if self._clock_ahead is not None and known is not None and abs(ahead - known[0]) >= CLOCK_STEP:
            step = ahead - known[0]
            log.warning("the clock has jumped by %.0f s; leases move with it", step)
            db.execute(f"UPDATE entries SET lease = lease + ? WHERE state = {HELD}", (step,))
            db.execute(
                "UPDATE consumers SET given = given + :step, seen = seen + :step, gone_since = gone_since + :step",
                {"step": step},
            )
            db.execute("UPDATE groups SET touched = touched + ?", (step,))
        db.execute("INSERT INTO clock VALUES (1, ?) ON CONFLICT DO UPDATE SET ahead = excluded.ahead", (ahead,))
        return ahead

    def _perform(self, db: sqlite3.Connection, call: _Call) -> dict[str, int]:
        transaction = Transaction(db, time.time())
        db.execute("SAVEPOINT one")
        try:
            call.result = call.work(transaction)
        except sqlite3.Error as error:
            if not isinstance(error, _OWN_FAULTS) or not db.in_transaction:
                raise
            return self._undo(db, call, error)
        except Exception as error:
            return self._undo(db, call, error)
        db.execute("RELEASE one")
        return transaction.woken

    def _undo(self, db: sqlite3.Connection, call: _Call, error: Exception) -> dict[str, int]:
        call.error = error
        db.execute("ROLLBACK TO one")
        db.execute("RELEASE one")
        return {}

    def _fail(self, batch: list[_Call], error: Exception) -> None:
        """Closing the connection undoes what was not committed; the next call opens another."""
        with contextlib.suppress(sqlite3.Error):
            self._link.drop()
        if not self._failing:
            log.error("writing to %s failed: %s", self._link.path, error)
        self._failing = True
        for call in batch:
            call.error = unavailable(self._link.path, error)

    def _publish(self, batch: list[_Call], woken: Mapping[str, int]) -> None:
        def answer() -> None:
            self._announce(woken)
            for call in batch:
                call.answer()

        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            self._loop.call_soon_threadsafe(answer)
