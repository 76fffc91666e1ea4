"""What is done to items whoever consumes them: put, finish, end, removal. Each function runs in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from sdwebui_api.queueing.model import HIGH, LOW, REQUEST_ID, Delivery, Item, NewItem, Receipt, callbacks_of, rear_of
from sdwebui_api.queueing.store import QueueFull, StreamEnded
from sdwebui_api.queueing.stores.lite.reads import Wanted, get
from sdwebui_api.queueing.stores.lite.rows import (
    PRIORITIES,
    Queue,
    as_list,
    clamp,
    dump_tags,
    find_queue,
    load,
    need_queue,
)
from sdwebui_api.queueing.stores.lite.schema import HELD
from sdwebui_api.queueing.stores.lite.writer import Transaction

LEAVE = """live = 0, finished = :now,
    forget_from = CASE WHEN (SELECT derived FROM queues WHERE id = items.queue) THEN created ELSE :now END"""
"""Takes items out of their queue, for all groups. Triggers do what hangs on it."""
KEPT = 64 * 1024
"""Bytes of a result that the task record keeps."""
CHUNK = 500
"""Items removed in one call, so that a long removal does not hold up the puts."""


def wake(tx: Transaction, queue: int) -> None:
    """Something of this queue may be takeable now, or a window may have room."""
    name, number = tx.db.execute(
        "UPDATE queues SET wake = wake + 1 WHERE id = ? RETURNING name, wake", (queue,)
    ).fetchone()
    tx.woken[name] = number


# -- adding ------------------------------------------------------------------------------------------


def put(tx: Transaction, name: str, item: NewItem, max_length: int | None) -> Receipt:
    queue = need_queue(tx.db, name)
    known = known_index(tx, queue, item.request_id)
    if known is not None:
        return Receipt(known, item.request_id, fresh=False)
    if queue.ended:
        raise StreamEnded(f"The stream {name} has ended")
    refuse_when_full(queue, max_length)
    return Receipt(append(tx, queue, item), item.request_id)


def known_index(tx: Transaction, queue: Queue, request_id: str) -> int | None:
    row = tx.db.execute("SELECT idx FROM items WHERE queue = ? AND request_id = ?", (queue.id, request_id)).fetchone()
    return row[0] if row else None


def refuse_when_full(queue: Queue, max_length: int | None) -> None:
    if max_length is not None and queue.length >= max_length:
        raise QueueFull(f"The queue {queue.name} is full: it holds {queue.length} messages")


def append(tx: Transaction, queue: Queue, item: NewItem, *, keep: bool = False) -> int:
    """The new index. `keep`: a small result, whose data its task record will want."""
    index, number = tx.db.execute(
        "UPDATE queues SET last_index = last_index + 1, length = length + 1, wake = wake + 1 WHERE id = ?"
        " RETURNING last_index, wake",
        (queue.id,),
    ).fetchone()
    tx.woken[queue.name] = number
    priority = HIGH if item.priority >= HIGH else LOW
    row = tx.db.execute(
        "INSERT INTO items (queue, idx, request_id, priority, path, tags, created, keep) VALUES (?,?,?,?,?,?,?,?)",
        (queue.id, index, item.request_id, priority, item.path, dump_tags(item), tx.now, keep),
    ).lastrowid
    tx.db.execute("INSERT INTO payloads (id, data) VALUES (?, ?)", (row, item.data))
    tags = [(queue.id, index, *pair, priority) for pair in item.tags.items() if pair[0] != REQUEST_ID]
    tx.db.executemany("INSERT INTO item_tags (queue, idx, name, value, priority) VALUES (?,?,?,?,?)", tags)
    return int(index)


def finish(
    tx: Transaction,
    name: str,
    delivery: Delivery,
    result: NewItem | None,
    sink_name: str,
    failed: bool,
    dead: NewItem | None,
    callback: NewItem | None,
    max_sink_length: int | None,
) -> bool:
    queue = find_queue(tx.db, name)
    if queue is None or not load(tx.db, queue.id, [delivery.item.index], data=False):
        return False
    sink = need_queue(tx.db, sink_name)
    if result is not None and known_index(tx, sink, result.request_id) is None:
        refuse_when_full(sink, max_sink_length)
        append(tx, sink, result, keep=len(result.data) <= KEPT)
    for other, item in ((rear_of(name), dead), (callbacks_of(name), callback)):
        if item is not None:
            _append_once(tx, need_queue(tx.db, other), item)
    remove(tx, queue, [delivery.item.index], failed=failed, sink=sink.id if result is not None else None)
    return True


def _append_once(tx: Transaction, queue: Queue, item: NewItem) -> None:
    if known_index(tx, queue, item.request_id) is None:
        append(tx, queue, item)


# -- removing ----------------------------------------------------------------------------------------


def remove(tx: Transaction, queue: Queue, indexes: Sequence[int], *, failed: bool, sink: int | None = None) -> int:
    """How many of them there were. Watchers whose windows they filled are woken."""
    removed = tx.db.execute(
        f"UPDATE items SET {LEAVE}, failed = :failed, sink = :sink"
        " WHERE queue = :queue AND live = 1 AND idx IN (SELECT value FROM json_each(:indexes))",
        {"now": tx.now, "failed": failed, "sink": sink, "queue": queue.id, "indexes": as_list(indexes)},
    ).rowcount
    if removed:
        wake(tx, queue.id)
    return removed


def delete(tx: Transaction, name: str, indexes: Sequence[int]) -> list[Item]:
    queue = find_queue(tx.db, name)
    if queue is None:
        return []
    found = load(tx.db, queue.id, sorted(set(indexes)), data=False)
    remove(tx, queue, [item.index for item in found], failed=True)
    return found


def get_and_delete(tx: Transaction, name: str, wanted: Wanted) -> list[Item]:
    queue = find_queue(tx.db, name)
    found = get(tx.db, name, wanted, tx.now)
    if queue is not None:
        remove(tx, queue, [item.index for item in found], failed=False)
    return found


def truncate_some(tx: Transaction, name: str, below: int) -> int:
    """Part of a truncation; how many were removed, fewer than CHUNK when it was the last part."""
    queue = find_queue(tx.db, name)
    if queue is None:
        return 0
    found: list[int] = []
    for priority in PRIORITIES:
        rows = tx.db.execute(
            "SELECT idx FROM items WHERE queue = ? AND live = 1 AND priority = ? AND idx < ? ORDER BY idx LIMIT ?",
            (queue.id, priority, clamp(below), CHUNK - len(found)),
        )
        found += [index for (index,) in rows]
    return remove(tx, queue, found, failed=True)


def end(tx: Transaction, name: str) -> None:
    queue = need_queue(tx.db, name)
    tx.db.execute("UPDATE queues SET ended = 1 WHERE id = ?", (queue.id,))
    wake(tx, queue.id)


def drop_some_undelivered(tx: Transaction, name: str) -> int:
    """Part of a forced end, as `truncate_some`."""
    queue = need_queue(tx.db, name)
    rows = tx.db.execute(
        "SELECT i.idx FROM items i WHERE i.queue = :queue AND i.live = 1 AND NOT EXISTS ("
        "  SELECT 1 FROM groups g JOIN entries e ON e.grp = g.id AND e.idx = i.idx"
        f"  WHERE g.queue = :queue AND e.state = {HELD} AND e.lease > :now) LIMIT :chunk",
        {"queue": queue.id, "now": tx.now, "chunk": CHUNK},
    ).fetchall()
    return remove(tx, queue, [index for (index,) in rows], failed=True)
