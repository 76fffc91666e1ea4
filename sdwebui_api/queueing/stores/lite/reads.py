"""What is only looked at. Each function runs on a reading connection and sees what was committed before its call."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdwebui_api.queueing.model import (
    HIGH,
    ConsumerStats,
    ConsumerStatus,
    Item,
    ItemState,
    QueueStats,
    TaskRecord,
    TaskState,
)
from sdwebui_api.queueing.stores.lite.rows import (
    LARGEST,
    PRIORITIES,
    Filter,
    Queue,
    clamp,
    find,
    find_queue,
    load,
    one_answer,
)
from sdwebui_api.queueing.stores.lite.schema import BUCKET, DONE, FREE, HELD

LEAVING = 30.0
"""Seconds for which a consumer who left work behind is called "Leaving"; then "Exit"."""


# -- items -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """The question of a `get`, as `QueueStore.get` explains it."""

    start: int
    length: int
    filter: Filter
    group: str | None


def get(db: sqlite3.Connection, name: str, wanted: Wanted, now: float, *, data: bool = True) -> list[Item]:
    queue = find_queue(db, name)
    if queue is None:
        return []
    chosen = _choose(db, queue, wanted, now)
    return load(db, queue.id, one_answer(db, queue.id, chosen) if data else chosen, data=data)


def _choose(db: sqlite3.Connection, queue: Queue, wanted: Wanted, now: float) -> list[int]:
    also, params = _not_pending(db, queue, wanted, now)
    newest = wanted.start < 0
    limit = 1 if newest else wanted.length
    low = max(clamp(wanted.start), 0)
    found = [
        index
        for priority in PRIORITIES
        for index in find(
            db, queue.id, wanted.filter, priority, low=low, limit=limit, newest=newest, also=also, params=params
        )
    ]
    if newest:
        return [max(found)] if found else []
    return (sorted(found) if wanted.start else found)[:limit]


def _not_pending(db: sqlite3.Connection, queue: Queue, wanted: Wanted, now: float) -> tuple[str, dict[str, Any]]:
    """Conditions on `k`, and their parameters, that leave out what somebody of the group has."""
    row = db.execute("SELECT id FROM groups WHERE queue = ? AND name = ?", (queue.id, wanted.group)).fetchone()
    if row is None or wanted.filter.by_request_id:
        return "", {}
    condition = (
        "AND (k.idx = :exact OR NOT EXISTS (SELECT 1 FROM entries e WHERE e.grp = :grp AND e.idx = k.idx"
        f" AND e.state = {HELD} AND e.lease > :now))"
    )
    exact = clamp(wanted.start) if wanted.length == 1 else 0
    return condition, {"exact": exact, "grp": row[0], "now": now}


def count(db: sqlite3.Connection, name: str, priority: int | None, tags: Mapping[str, str] | None) -> int:
    queue, wanted = find_queue(db, name), Filter(tags)
    if queue is None or wanted.impossible:
        return 0
    if wanted.any:
        return queue.length if priority is None else _backlog(db, queue.id, priority)
    numbers = [
        db.execute(
            f"SELECT COUNT(*) FROM {wanted.tables} WHERE {wanted.where}"
            " AND k.queue = :queue AND k.priority = :priority",
            {"queue": queue.id, "priority": one, **wanted.params},
        ).fetchone()[0]
        for one in (PRIORITIES if priority is None else (priority,))
    ]
    return sum(numbers)


def search(
    db: sqlite3.Connection, name: str, index: int, group: str, service_group: str, now: float
) -> ItemState | None:
    queue = find_queue(db, name)
    items = load(db, queue.id, [index], data=False) if queue else []
    if queue is None or not items:
        return None
    grp = _group_of(db, queue.id, group, service_group)
    holder = db.execute(
        "SELECT g.name, c.user FROM entries e JOIN groups g ON g.id = e.grp LEFT JOIN consumers c ON c.id = e.consumer"
        f" WHERE e.grp = ? AND e.idx = ? AND e.state = {HELD} AND e.lease > ?",
        (grp, index, now),
    ).fetchone()
    if holder:
        return ItemState(True, f"{holder[0]}.{holder[1] or ''}", 0)
    return ItemState(False, "", _ahead(db, queue.id, items[0], grp, now))


def _group_of(db: sqlite3.Connection, queue: int, group: str, service_group: str) -> int:
    """`group` when it has consumers, else the workers'; 0 when there is none."""
    row = db.execute(
        "SELECT id FROM groups g WHERE queue = :queue AND (name = :service"
        " OR name = :group AND EXISTS (SELECT 1 FROM consumers c WHERE c.grp = g.id)) ORDER BY name = :group DESC",
        {"queue": queue, "group": group, "service": service_group},
    ).fetchone()
    return row[0] if row else 0


def _ahead(db: sqlite3.Connection, queue: int, item: Item, grp: int, now: float) -> int:
    """All that are in the queue before it, less those among them that somebody has or that are committed."""
    before = "k.priority = :priority AND k.idx < :idx"
    if item.priority != HIGH:
        before = f"({before} OR k.priority = {HIGH})"
    (taken,) = db.execute(
        "SELECT COUNT(*) FROM entries k"
        f" WHERE k.grp = :grp AND (k.state = {DONE} OR k.state = {HELD} AND k.lease > :now) AND {before}",
        {"grp": grp, "idx": item.index, "priority": item.priority, "now": now},
    ).fetchone()
    higher = _backlog(db, queue, HIGH) if item.priority != HIGH else 0
    return higher + _backlog(db, queue, item.priority, item.index) - int(taken)


def _backlog(db: sqlite3.Connection, queue: int, priority: int, below: int = LARGEST) -> int:
    """How many items of this priority are in the queue, of indexes < `below`."""
    bucket = below // BUCKET
    (number,) = db.execute(
        "SELECT (SELECT coalesce(sum(items), 0) FROM backlog WHERE queue = ?1 AND priority = ?2 AND bucket < ?3)"
        " + (SELECT COUNT(*) FROM items WHERE queue = ?1 AND priority = ?2 AND live = 1 AND idx >= ?4 AND idx < ?5)",
        (queue, priority, bucket, bucket * BUCKET, below),
    ).fetchone()
    return int(number)


def task(db: sqlite3.Connection, name: str, request_id: str, kept: int, now: float) -> TaskRecord | None:
    """`kept`: the largest result, in bytes, that a record holds."""
    queue = find_queue(db, name)
    row = (
        queue
        and db.execute(
            "SELECT idx, tags, created, live, finished, failed, sink FROM items WHERE queue = ? AND request_id = ?",
            (queue.id, request_id),
        ).fetchone()
    )
    if not queue or not row:
        return None
    index, tags, created, live, finished, failed, sink = row
    state: TaskState = "failed" if failed else "done"
    if live:
        state = "running" if _held(db, queue.id, index, now) else "queued"
    result = db.execute(
        "SELECT p.data FROM items i JOIN payloads p ON p.id = i.id"
        " WHERE i.queue = ? AND i.request_id = ? AND length(p.data) <= ?",
        (sink, request_id, kept),
    ).fetchone()
    return TaskRecord(request_id, index, state, json.loads(tags), created, finished, result[0] if result else None)


def _held(db: sqlite3.Connection, queue: int, index: int, now: float) -> bool:
    row = db.execute(
        "SELECT 1 FROM groups g JOIN entries e ON e.grp = g.id AND e.idx = ?"
        f" WHERE g.queue = ? AND e.state = {HELD} AND e.lease > ?",
        (index, queue, now),
    ).fetchone()
    return row is not None


# -- the queue ---------------------------------------------------------------------------------------


def stats(db: sqlite3.Connection, name: str, consumers: bool, now: float) -> QueueStats:
    queue = find_queue(db, name)
    if queue is None:
        return QueueStats(0, 0, None, None, 0.0)
    firsts = [index for priority in PRIORITIES for index in find(db, queue.id, Filter(), priority, limit=1)]
    created = [item.created for item in load(db, queue.id, firsts, data=False)]
    (held,) = db.execute(
        "SELECT COUNT(DISTINCT e.idx) FROM groups g CROSS JOIN entries e INDEXED BY entries_held ON e.grp = g.id"
        f" WHERE g.queue = ? AND e.state = {HELD} AND e.lease > ?",
        (queue.id, now),
    ).fetchone()
    groups = db.execute("SELECT name FROM groups WHERE queue = ? ORDER BY name", (queue.id,))
    return QueueStats(
        length=queue.length,
        waiting=queue.length - held,
        first_index=min(firsts, default=None),
        last_index=queue.last_index or None,
        oldest_seconds=max(0.0, now - min(created, default=now)),
        consumers=_consumers(db, queue.id, now) if consumers else (),
        groups=tuple(group for (group,) in groups),
        ended=queue.ended,
    )


def _consumers(db: sqlite3.Connection, queue: int, now: float) -> tuple[ConsumerStats, ...]:
    rows = db.execute(
        "SELECT g.name, c.user, c.last_index, c.given, c.gone_since, c.window, c.auto_commit, c.tags,"
        f"  (SELECT COUNT(*) FROM entries e WHERE e.consumer = c.id AND e.state = {HELD} AND e.lease > :now),"
        f"  EXISTS (SELECT 1 FROM entries e WHERE e.consumer = c.id AND e.state IN ({FREE}, {HELD}))"
        " FROM groups g JOIN consumers c ON c.grp = g.id WHERE g.queue = :queue ORDER BY g.name, c.user",
        {"queue": queue, "now": now},
    ).fetchall()
    return tuple(
        ConsumerStats(
            group,
            user,
            index,
            pending,
            _status(gone, left, now),
            max(0.0, now - given),
            window,
            bool(auto),
            json.loads(tags),
        )
        for group, user, index, given, gone, window, auto, tags, pending, left in rows
    )


def _status(gone_since: float | None, left_work: bool, now: float) -> ConsumerStatus:
    if gone_since is None:
        return "Running"
    if not left_work:
        return "Complete"
    return "Leaving" if now - gone_since < LEAVING else "Exit"


def number(db: sqlite3.Connection, name: str) -> int:
    """Of the last change that made something takeable; 0 when the queue is new."""
    row = db.execute("SELECT wake FROM queues WHERE name = ?", (name,)).fetchone()
    return row[0] if row else 0


def numbers(db: sqlite3.Connection) -> dict[str, int]:
    return dict(db.execute("SELECT name, wake FROM queues"))


def has_expired(db: sqlite3.Connection, now: float) -> bool:
    """Whether some lease has run out that still stands as held."""
    row = db.execute(
        "SELECT 1 FROM groups g CROSS JOIN entries e INDEXED BY entries_held ON e.grp = g.id"
        f" WHERE e.state = {HELD} AND e.lease <= ? LIMIT 1",
        (now,),
    ).fetchone()
    return row is not None
