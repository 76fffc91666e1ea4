"""The tables, and connections to the file they are in.

An item keeps its row after it has left its queue (`live` 0), without its data, until the retention has passed: that
row is the task record and the memory of the request id. Triggers keep what hangs on an item in step with it.
"""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sdwebui_api.queueing.store import StoreUnavailable

log = logging.getLogger(__name__)

OLDEST = (3, 35)
"""Of sqlite, for RETURNING. A Python built on an old distribution brings that one's."""
VERSION = 1
PATIENCE = 4.0
"""Seconds to wait for other processes that write. Clients of the queue give up after 5."""

FREE, HELD, DONE = 0, 1, 2
"""States of an entry. Free: it was held and came back, or its lease ran out. Done: committed by the group.

They stand in statements as literals: with a parameter in their place, an index of one state's rows cannot be used.
"""
BUCKET = 1024
"""Indexes that are counted together in `backlog`."""

SCHEMA = f"""
CREATE TABLE queues (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    derived INTEGER NOT NULL,               -- sinks, rear queues, callbacks: remembered from their creation
    last_index INTEGER NOT NULL DEFAULT 0,
    length INTEGER NOT NULL DEFAULT 0,
    wake INTEGER NOT NULL DEFAULT 0,        -- grows when something may have become takeable
    ended INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE items (
    id INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    priority INTEGER NOT NULL,
    path TEXT NOT NULL,
    tags TEXT NOT NULL,                     -- JSON object
    created REAL NOT NULL,
    live INTEGER NOT NULL DEFAULT 1,        -- 0: has left the queue
    committed INTEGER NOT NULL DEFAULT 0,   -- some group is done with it, others were not
    keep INTEGER NOT NULL DEFAULT 0,        -- its data outlives it, for the task record
    finished REAL,                          -- when it left
    forget_from REAL,                       -- when its retention began; NULL while live
    failed INTEGER NOT NULL DEFAULT 0,
    sink INTEGER,                           -- the queue that its result went to
    UNIQUE (queue, idx),
    UNIQUE (queue, request_id)
);
CREATE INDEX items_live ON items (queue, priority, idx) WHERE live = 1;
CREATE INDEX items_committed ON items (queue, idx) WHERE live = 1 AND committed = 1;
CREATE INDEX items_gone ON items (forget_from) WHERE live = 0;

-- How many live items there are in each BUCKET of indexes: to know how many come before one without counting them.
CREATE TABLE backlog (
    queue INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    items INTEGER NOT NULL,
    PRIMARY KEY (queue, priority, bucket)
) WITHOUT ROWID;

CREATE TABLE payloads (id INTEGER PRIMARY KEY, data BLOB NOT NULL);

-- The tags of live items, except requestId, which has its own column.
CREATE TABLE item_tags (
    queue INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    priority INTEGER NOT NULL,
    PRIMARY KEY (queue, idx, name)
) WITHOUT ROWID;
CREATE INDEX item_tags_by_value ON item_tags (queue, name, value, priority, idx);

-- Every item of priority p below cursor_p, and not below the group's first start, has an entry in `entries`.
CREATE TABLE groups (
    id INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    name TEXT NOT NULL,
    cursor_0 INTEGER NOT NULL DEFAULT 0,
    cursor_1 INTEGER NOT NULL DEFAULT 0,
    touched REAL NOT NULL,
    UNIQUE (queue, name)
);

-- The same for its own `start` and `tags`: what matches them, from `start` to below cursor_p, has an entry.
CREATE TABLE consumers (
    id INTEGER PRIMARY KEY,
    grp INTEGER NOT NULL,
    user TEXT NOT NULL,
    connection TEXT NOT NULL,               -- empty after leaving
    window INTEGER NOT NULL,
    auto_commit INTEGER NOT NULL,
    start INTEGER NOT NULL,
    tags TEXT NOT NULL,
    cursor_0 INTEGER NOT NULL,
    cursor_1 INTEGER NOT NULL,
    last_index INTEGER NOT NULL DEFAULT 0,
    given REAL NOT NULL,                    -- when it last got something, or joined
    seen REAL NOT NULL,
    gone_since REAL,
    UNIQUE (grp, user)
);

-- What a group has to do with a live item, once it has been given to somebody or was committed.
CREATE TABLE entries (
    grp INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    state INTEGER NOT NULL,
    consumer INTEGER,                       -- who holds it, or held it last unless it was given back
    lease REAL NOT NULL DEFAULT 0,
    count INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (grp, idx)
) WITHOUT ROWID;
CREATE INDEX entries_free ON entries (grp, priority, idx) WHERE state = {FREE};
CREATE INDEX entries_held ON entries (grp, lease, idx) WHERE state = {HELD};
CREATE INDEX entries_of ON entries (consumer, state, lease);

CREATE TRIGGER item_comes AFTER INSERT ON items BEGIN
    INSERT INTO backlog (queue, priority, bucket, items) VALUES (new.queue, new.priority, new.idx / {BUCKET}, 1)
        ON CONFLICT DO UPDATE SET items = items + 1;
END;
CREATE TRIGGER item_leaves AFTER UPDATE OF live ON items WHEN old.live = 1 AND new.live = 0 BEGIN
    UPDATE queues SET length = length - 1 WHERE id = new.queue;
    DELETE FROM entries WHERE idx = new.idx AND grp IN (SELECT id FROM groups WHERE queue = new.queue);
    DELETE FROM item_tags WHERE queue = new.queue AND idx = new.idx;
    UPDATE backlog SET items = items - 1
        WHERE queue = new.queue AND priority = new.priority AND bucket = new.idx / {BUCKET};
    DELETE FROM backlog
        WHERE queue = new.queue AND priority = new.priority AND bucket = new.idx / {BUCKET} AND items = 0;
    DELETE FROM payloads WHERE id = new.id AND new.keep = 0;
END;
CREATE TRIGGER item_forgotten AFTER DELETE ON items BEGIN
    DELETE FROM payloads WHERE id = old.id;
END;
"""

CLOCK = "CREATE TABLE IF NOT EXISTS clock (id INTEGER PRIMARY KEY CHECK (id = 1), ahead REAL NOT NULL)"
"""By how much the wall clock, in which all times here are told, is ahead of the one that nobody sets. One row."""

Result = TypeVar("Result")


def unavailable(path: Path, error: Exception) -> StoreUnavailable:
    return StoreUnavailable(f"The queue file {path} cannot be used: {error}")


def patiently(action: Callable[[], Result], seconds: float) -> Result:
    """Tries again while another process is in the way. Pauses are short and random, so that none starves."""
    end = time.monotonic() + seconds
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(random.uniform(0.0002, 0.002))


class Link:
    """One connection to the file, opened when it is needed and again after an error. For one thread at a time."""

    def __init__(self, path: Path, *, writes: bool, patience: float = PATIENCE) -> None:
        self.path = path
        self.patience = patience
        self._writes = writes
        self._connection: sqlite3.Connection | None = None
        self._file = (0, 0)

    def get(self) -> sqlite3.Connection:
        """Raises sqlite3.Error and OSError."""
        if self._connection is not None and self._file != self._identity():
            log.warning("%s was replaced by another file", self.path)
            self.drop()
        if self._connection is None:
            self._connection = self._open()
            self._file = self._identity()
        return self._connection

    def drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _identity(self) -> tuple[int, int]:
        """Of the file under this name now. What is written to a file that was deleted would be lost."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return (0, 0)
        return found.st_dev, found.st_ino

    def _open(self) -> sqlite3.Connection:
        """Only the writer makes a file: one that a reader made would have no tables."""
        if sqlite3.sqlite_version_info < OLDEST:
            raise sqlite3.NotSupportedError(f"sqlite {sqlite3.sqlite_version} is too old; 3.35 or newer is needed")
        address = f"{self.path.absolute().as_uri()}?mode={'rwc' if self._writes else 'rw'}"
        connection = sqlite3.connect(address, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            patiently(lambda: self._configure(connection), self.patience)
        except BaseException:
            connection.close()
            raise
        return connection

    def _configure(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA cache_size = -16000")
        if self._writes:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has an effect on a new file alone
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            _create(connection)
            connection.execute(CLOCK)
        else:
            connection.execute("PRAGMA query_only = ON")
            # Readers wait for nobody but one that recovers the log after a crash.
            connection.execute(f"PRAGMA busy_timeout = {int(self.patience * 1000)}")


def _create(connection: sqlite3.Connection) -> None:
    """Makes the tables when they are missing. Raises sqlite3.DatabaseError on a file that is not ours."""
    if _version(connection) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _version(connection) == 0:
            if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise sqlite3.DatabaseError("it is a database of something else")
            for statement in _statements(SCHEMA):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    if (found := _version(connection)) != VERSION:
        raise sqlite3.DatabaseError(f"it has version {found} of the tables, this program knows {VERSION}")


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _statements(script: str) -> list[str]:
    """`executescript` would commit first, so it cannot be used inside a transaction."""
    found, statement = [], ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            found.append(statement)
            statement = ""
    return found
