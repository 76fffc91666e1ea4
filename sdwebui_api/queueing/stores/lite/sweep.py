"""What is forgotten. Each function does a part in one transaction and says how much; 0 when nothing is left to do."""

from __future__ import annotations

import json
import time

from sdwebui_api.queueing.model import rear_of, sink_of
from sdwebui_api.queueing.stores.lite.items import CHUNK, LEAVE
from sdwebui_api.queueing.stores.lite.rows import PRIORITIES
from sdwebui_api.queueing.stores.lite.schema import DONE, HELD
from sdwebui_api.queueing.stores.lite.writer import Transaction

ROOM = 4096
"""Free pages (of 4 KiB) that the file may keep for what comes next."""
SHRINK_SECONDS = 0.01
"""For giving pages back, in one call: they are moved one by one, and the puts wait meanwhile."""

# Groups that nobody has joined or committed for, for a while.
_ABANDONED = "g.touched < :before AND NOT EXISTS (SELECT 1 FROM consumers c WHERE c.grp = g.id)"


def consumers(tx: Transaction, lease: float, remember: float) -> None:
    """Notes who is silent; forgets who has been gone for `remember` seconds and holds nothing."""
    tx.db.execute(
        "UPDATE consumers SET gone_since = seen + :lease WHERE gone_since IS NULL AND seen + :lease < :now",
        {"lease": lease, "now": tx.now},
    )
    rows = tx.db.execute(
        "SELECT id FROM consumers c WHERE gone_since < ? AND NOT EXISTS"
        f" (SELECT 1 FROM entries e WHERE e.consumer = c.id AND e.state = {HELD} AND e.lease > ?)",
        (tx.now - remember, tx.now),
    ).fetchall()
    gone = json.dumps([number for (number,) in rows])
    tx.db.execute(
        "UPDATE entries SET consumer = NULL WHERE consumer IN (SELECT value FROM json_each(?))",
        (gone,),
    )
    tx.db.execute("DELETE FROM consumers WHERE id IN (SELECT value FROM json_each(?))", (gone,))


def released_items(tx: Transaction, remember: float) -> int:
    """Removes items that waited only for groups that are abandoned now. Before these groups are forgotten, so that a
    crash in between leaves nothing behind."""
    return tx.db.execute(
        f"UPDATE items SET {LEAVE} WHERE id IN ("
        " SELECT i.id FROM items i WHERE i.live = 1 AND i.committed = 1"
        f" AND i.queue IN (SELECT g.queue FROM groups g WHERE {_ABANDONED})"
        " AND NOT EXISTS (SELECT 1 FROM groups o WHERE o.queue = i.queue"
        "  AND EXISTS (SELECT 1 FROM consumers c WHERE c.grp = o.id)"
        f"  AND NOT EXISTS (SELECT 1 FROM entries e WHERE e.grp = o.id AND e.idx = i.idx AND e.state = {DONE}))"
        " LIMIT :chunk)",
        {"now": tx.now, "before": tx.now - remember, "chunk": CHUNK},
    ).rowcount


def groups(tx: Transaction, remember: float) -> int:
    """Forgets one abandoned group, or part of what it knows."""
    row = tx.db.execute(f"SELECT id FROM groups g WHERE {_ABANDONED} LIMIT 1", {"before": tx.now - remember}).fetchone()
    if row is None:
        return 0
    removed = tx.db.execute(
        "DELETE FROM entries WHERE grp = ?1 AND idx IN (SELECT idx FROM entries WHERE grp = ?1 LIMIT ?2)",
        (row[0], 10 * CHUNK),
    ).rowcount
    if removed == 0:
        tx.db.execute("DELETE FROM groups WHERE id = ?", row)
    return 1


def old_results(tx: Transaction, retention: float) -> int:
    """Takes unread results and dead letters out of their queues."""
    before, found = tx.now - retention, list[int]()
    for queue, name in tx.db.execute("SELECT id, name FROM queues WHERE derived = 1").fetchall():
        service = name.rpartition("/")[0]
        if name not in (sink_of(service), rear_of(service)):
            continue
        for priority in PRIORITIES:
            rows = tx.db.execute(
                "SELECT id FROM (SELECT id, created FROM items WHERE queue = ? AND live = 1 AND priority = ?"
                " ORDER BY idx LIMIT ?) WHERE created < ?",
                (queue, priority, CHUNK, before),
            )
            found += [number for (number,) in rows]
    ids = json.dumps(found)
    tx.db.execute(
        f"UPDATE items SET {LEAVE} WHERE id IN (SELECT value FROM json_each(:ids))",
        {"now": tx.now, "ids": ids},
    )
    return len(found)


def old_records(tx: Transaction, retention: float) -> int:
    """Forgets what has left its queue: task records, request ids, results kept for them."""
    return tx.db.execute(
        "DELETE FROM items WHERE id IN (SELECT id FROM items WHERE live = 0 AND forget_from < ? LIMIT ?)",
        (tx.now - retention, CHUNK),
    ).rowcount


def unused_pages(tx: Transaction) -> int:
    """Gives room back to the disk when a quarter of the file is free, as it is after a flood."""
    (free,), (pages,) = (tx.db.execute(f"PRAGMA {name}").fetchone() for name in ("freelist_count", "page_count"))
    given_back, end = 0, time.monotonic() + SHRINK_SECONDS
    while free - given_back > max(ROOM, pages // 4) and time.monotonic() < end:
        tx.db.execute("PRAGMA incremental_vacuum(1)")
        given_back += 1
    return given_back
