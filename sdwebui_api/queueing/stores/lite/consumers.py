"""Groups and consumers: who has what. Each function runs in one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sdwebui_api.queueing.model import HIGH, LOW, Consumer, Delivery, Item
from sdwebui_api.queueing.store import Replaced, StreamEnded
from sdwebui_api.queueing.stores.lite.items import remove, wake
from sdwebui_api.queueing.stores.lite.rows import (
    PRIORITIES,
    Filter,
    Queue,
    as_list,
    clamp,
    find,
    find_queue,
    load,
    need_queue,
    one_answer,
)
from sdwebui_api.queueing.stores.lite.schema import DONE, FREE, HELD
from sdwebui_api.queueing.stores.lite.writer import Transaction

CURSOR = {LOW: "cursor_0", HIGH: "cursor_1"}
SLACK = 1000
"""How far a cursor may lag behind when nothing was found, to spare a write."""


@dataclass
class Registered:
    """A consumer of which this connection is the current one."""

    id: int
    group: int
    start: int
    wanted: Filter
    seen: float
    cursor: dict[int, int]
    """By priority: what it wants of lower index has an entry."""
    group_cursor: dict[int, int]


# -- coming and going --------------------------------------------------------------------------------


def join(tx: Transaction, name: str, consumer: Consumer) -> None:
    queue = need_queue(tx.db, name)
    group = _need_group(tx, queue, consumer.group)
    start = queue.last_index + 1 if consumer.start < 0 else clamp(consumer.start)
    (number,) = tx.db.execute(
        "INSERT INTO consumers"
        " (grp, user, connection, window, auto_commit, start, tags, cursor_0, cursor_1, given, seen)"
        " VALUES (:grp, :user, :connection, :window, :auto, :start, :tags, :start, :start, :now, :now)"
        " ON CONFLICT (grp, user) DO UPDATE SET connection = :connection, window = :window, auto_commit = :auto,"
        " start = :start, tags = :tags, cursor_0 = :start, cursor_1 = :start, given = :now, seen = :now,"
        " gone_since = NULL RETURNING id",
        {
            "grp": group,
            "user": consumer.user,
            "connection": consumer.connection,
            "window": consumer.window,
            "auto": consumer.auto_commit,
            "start": start,
            "tags": json.dumps(dict(consumer.tags)),
            "now": tx.now,
        },
    ).fetchone()
    freed = tx.db.execute(
        f"UPDATE entries SET state = {FREE}, consumer = NULL WHERE consumer = ? AND state IN ({FREE}, {HELD})",
        (number,),
    ).rowcount
    if freed:
        wake(tx, queue.id)


def _need_group(tx: Transaction, queue: Queue, name: str) -> int:
    (number,) = tx.db.execute(
        "INSERT INTO groups (queue, name, touched) VALUES (?, ?, ?)"
        " ON CONFLICT (queue, name) DO UPDATE SET touched = excluded.touched RETURNING id",
        (queue.id, name, tx.now),
    ).fetchone()
    return int(number)


def find_group(db: sqlite3.Connection, queue: int, name: str) -> int | None:
    row = db.execute("SELECT id FROM groups WHERE queue = ? AND name = ?", (queue, name)).fetchone()
    return row[0] if row else None


def _registered(tx: Transaction, queue: Queue | None, consumer: Consumer) -> Registered:
    """Raises Replaced."""
    row = (
        queue
        and tx.db.execute(
            "SELECT c.id, g.id, c.start, c.tags, c.seen, c.cursor_0, c.cursor_1, g.cursor_0, g.cursor_1"
            " FROM groups g JOIN consumers c ON c.grp = g.id WHERE g.queue = ? AND g.name = ? AND c.user = ?"
            " AND c.connection = ?",
            (queue.id, consumer.group, consumer.user, consumer.connection),
        ).fetchone()
    )
    if not row or not consumer.connection:
        raise Replaced(f"The consumer {consumer.id} has a newer connection, or none")
    number, group, start, tags, seen, low, high, group_low, group_high = row
    cursors = {LOW: low, HIGH: high}, {LOW: group_low, HIGH: group_high}
    return Registered(number, group, start, Filter(json.loads(tags)), seen, *cursors)


def leave(tx: Transaction, name: str, consumer: Consumer) -> None:
    queue = find_queue(tx.db, name)
    try:
        me = _registered(tx, queue, consumer)
    except Replaced:
        return
    assert queue is not None
    tx.db.execute("UPDATE consumers SET connection = '', gone_since = ? WHERE id = ?", (tx.now, me.id))
    freed = tx.db.execute(f"UPDATE entries SET state = {FREE} WHERE consumer = ? AND state = {HELD}", (me.id,)).rowcount
    if freed:
        wake(tx, queue.id)


def expire(tx: Transaction) -> None:
    """Frees what is held by leases that ran out, in all queues."""
    groups = tx.db.execute("SELECT id, queue FROM groups").fetchall()
    for queue in {queue for group, queue in groups if _expire(tx, group)}:
        wake(tx, queue)


def _expire(tx: Transaction, group: int) -> bool:
    """The consumer stays noted in the entry: it may still renew."""
    freed = tx.db.execute(
        f"UPDATE entries INDEXED BY entries_held SET state = {FREE} WHERE grp = ? AND state = {HELD} AND lease <= ?",
        (group, tx.now),
    ).rowcount
    return freed > 0


# -- taking ------------------------------------------------------------------------------------------


def take(tx: Transaction, name: str, consumer: Consumer, limit: int, lease: float, index_only: bool) -> list[Delivery]:
    queue = find_queue(tx.db, name)
    me = _registered(tx, queue, consumer)
    assert queue is not None
    if _expire(tx, me.group):
        wake(tx, queue.id)
    chosen = _choose(tx, queue, me, limit)
    given = chosen if index_only else one_answer(tx.db, queue.id, chosen)
    _leave_free(tx, me, load(tx.db, queue.id, chosen[len(given) :], data=False))
    items = load(tx.db, queue.id, given, data=not index_only)
    if not items:
        _look_at_the_end(tx, queue, me)
        if tx.now - me.seen > lease / 3:
            _touch(tx, me)
        return []
    counts = _hold(tx, me, items, lease)
    tx.db.execute(
        "UPDATE consumers SET last_index = max(last_index, ?), given = ?, seen = ?, gone_since = NULL WHERE id = ?",
        (max(item.index for item in items), tx.now, tx.now, me.id),
    )
    if consumer.auto_commit:
        _commit(tx, queue, me.group, items)
    return [Delivery(item, count) for item, count in zip(items, counts, strict=True)]


def _touch(tx: Transaction, me: Registered) -> None:
    tx.db.execute("UPDATE consumers SET seen = ?, gone_since = NULL WHERE id = ?", (tx.now, me.id))


def _choose(tx: Transaction, queue: Queue, me: Registered, limit: int) -> list[int]:
    """What came back, and what was never given to the group, merged by index within each priority."""
    chosen: list[int] = []
    for priority in PRIORITIES:
        room = limit - len(chosen)
        if room <= 0:
            break
        returned = _returned(tx, queue, me, priority, room)
        low = max(me.start, me.cursor[priority], me.group_cursor[priority])
        fresh = find(
            tx.db,
            queue.id,
            me.wanted,
            priority,
            low=low,
            limit=room,
            also="AND NOT EXISTS (SELECT 1 FROM entries e WHERE e.grp = :grp AND e.idx = k.idx)",
            params={"grp": me.group},
        )
        merged = sorted(returned + fresh)[:room]
        chosen += merged
        left_over = set(fresh).difference(merged)
        if not left_over and len(fresh) < room:
            _advance(tx, me, priority, low, queue.last_index + 1, at_once=bool(fresh))
        elif taken := set(fresh).difference(left_over):
            _advance(tx, me, priority, low, max(taken) + 1, at_once=True)
    return chosen


def _returned(tx: Transaction, queue: Queue, me: Registered, priority: int, limit: int) -> list[int]:
    if me.wanted.impossible:
        return []
    rows = tx.db.execute(
        "SELECT e.idx FROM entries e INDEXED BY entries_free WHERE e.grp = :grp AND e.priority = :priority"
        f" AND e.state = {FREE} AND e.idx >= :start {me.wanted.matches('e')} ORDER BY e.idx LIMIT :limit",
        {
            "grp": me.group,
            "queue": queue.id,
            "priority": priority,
            "start": me.start,
            "limit": limit,
            **me.wanted.params,
        },
    )
    return [index for (index,) in rows]


def _advance(tx: Transaction, me: Registered, priority: int, low: int, cursor: int, *, at_once: bool) -> None:
    """Moves the cursors up to `cursor`: whatever is wanted below it has an entry now.

    They keep the search short: without them every take would look again at what the group has had already.
    """
    if not at_once and cursor - low < SLACK:
        return
    column = CURSOR[priority]
    tx.db.execute(f"UPDATE consumers SET {column} = max({column}, ?) WHERE id = ?", (cursor, me.id))
    if me.wanted.any and me.start <= me.group_cursor[priority]:
        tx.db.execute(f"UPDATE groups SET {column} = max({column}, ?) WHERE id = ?", (cursor, me.group))


def _leave_free(tx: Transaction, me: Registered, items: Iterable[Item]) -> None:
    """What was chosen is behind the cursors: the next take looks for it among what came back."""
    tx.db.executemany(
        f"INSERT INTO entries (grp, idx, priority, state) VALUES (?, ?, ?, {FREE}) ON CONFLICT DO NOTHING",
        [(me.group, item.index, item.priority) for item in items],
    )


def _hold(tx: Transaction, me: Registered, items: Iterable[Item], lease: float) -> list[int]:
    """How often each has been given to the group now."""
    return [
        tx.db.execute(
            "INSERT INTO entries (grp, idx, priority, state, consumer, lease, count)"
            f" VALUES (?, ?, ?, {HELD}, ?, ?, 1)"
            " ON CONFLICT (grp, idx) DO UPDATE SET state = excluded.state, consumer = excluded.consumer,"
            " lease = excluded.lease, count = count + 1 RETURNING count",
            (me.group, item.index, item.priority, me.id, tx.now + lease),
        ).fetchone()[0]
        for item in items
    ]


def _look_at_the_end(tx: Transaction, queue: Queue, me: Registered) -> None:
    """Raises StreamEnded when an ended stream holds nothing more that this consumer may get, now or later."""
    if not queue.ended:
        return
    for priority in PRIORITIES:
        left = find(
            tx.db,
            queue.id,
            me.wanted,
            priority,
            low=me.start,
            limit=1,
            also=f"AND NOT EXISTS (SELECT 1 FROM entries e WHERE e.grp = :grp AND e.idx = k.idx AND e.state = {DONE})",
            params={"grp": me.group},
        )
        if left:
            return
    raise StreamEnded(f"The stream {queue.name} has ended")


# -- holding -----------------------------------------------------------------------------------------


def renew(tx: Transaction, name: str, consumer: Consumer, indexes: Sequence[int], lease: float) -> list[int]:
    me = _registered(tx, find_queue(tx.db, name), consumer)
    _touch(tx, me)
    rows = tx.db.execute(
        f"UPDATE entries SET state = {HELD}, lease = ? WHERE grp = ? AND +consumer = ? AND state IN ({FREE}, {HELD})"
        " AND idx IN (SELECT value FROM json_each(?)) RETURNING idx",
        (tx.now + lease, me.group, me.id, as_list(indexes)),
    )
    return sorted(index for (index,) in rows)


def release(tx: Transaction, name: str, consumer: Consumer, indexes: Sequence[int], counts: bool) -> None:
    queue = find_queue(tx.db, name)
    try:
        me = _registered(tx, queue, consumer)
    except Replaced:
        return
    assert queue is not None
    if _give_back(tx, me.group, indexes, counts, holder=me.id):
        wake(tx, queue.id)


def reject(tx: Transaction, name: str, group_name: str, indexes: Sequence[int], counts: bool) -> list[Delivery]:
    queue = find_queue(tx.db, name)
    group = find_group(tx.db, queue.id, group_name) if queue else None
    if queue is None or group is None:
        return []
    given_back = _give_back(tx, group, indexes, counts)
    if given_back:
        wake(tx, queue.id)
    return [Delivery(item, given_back[item.index]) for item in load(tx.db, queue.id, sorted(given_back))]


def _give_back(
    tx: Transaction, group: int, indexes: Sequence[int], counts: bool, holder: int | None = None
) -> dict[int, int]:
    """Index → how often it was delivered, for those that were held (by `holder`, else by anybody)."""
    rows = tx.db.execute(
        f"UPDATE entries SET state = {FREE}, consumer = NULL, count = max(0, count - :off) WHERE grp = :grp"
        f" AND state = {HELD} AND (:holder IS NULL OR consumer = :holder)"
        " AND idx IN (SELECT value FROM json_each(:indexes)) RETURNING idx, count",
        {
            "grp": group,
            "holder": holder,
            "off": 0 if counts else 1,
            "indexes": as_list(indexes),
        },
    )
    return dict(rows.fetchall())


# -- committing --------------------------------------------------------------------------------------


def commit(tx: Transaction, name: str, group_name: str, indexes: Sequence[int]) -> None:
    queue = find_queue(tx.db, name)
    items = load(tx.db, queue.id, sorted(set(indexes)), data=False) if queue else []
    if queue is not None and items:
        _commit(tx, queue, _need_group(tx, queue, group_name), items)


def _commit(tx: Transaction, queue: Queue, group: int, items: Sequence[Item]) -> None:
    others = [
        number
        for (number,) in tx.db.execute(
            "SELECT id FROM groups g WHERE queue = ? AND id != ?"
            " AND EXISTS (SELECT 1 FROM consumers c WHERE c.grp = g.id)",
            (queue.id, group),
        )
    ]
    others_need = [item for item in items if not all(_is_done(tx, other, item.index) for other in others)]
    needed = {item.index for item in others_need}
    remove(tx, queue, [item.index for item in items if item.index not in needed], failed=False)
    for item in others_need:
        _note_done(tx, queue, group, item)
    if others_need:
        wake(tx, queue.id)


def _is_done(tx: Transaction, group: int, index: int) -> bool:
    row = tx.db.execute("SELECT state FROM entries WHERE grp = ? AND idx = ?", (group, index)).fetchone()
    return row is not None and row[0] == DONE


def _note_done(tx: Transaction, queue: Queue, group: int, item: Item) -> None:
    tx.db.execute(
        f"INSERT INTO entries (grp, idx, priority, state) VALUES (?, ?, ?, {DONE})"
        " ON CONFLICT (grp, idx) DO UPDATE SET state = excluded.state, consumer = NULL",
        (group, item.index, item.priority),
    )
    tx.db.execute("UPDATE items SET committed = 1 WHERE queue = ? AND idx = ?", (queue.id, item.index))
