"""Finding items: by priority, index and tags; and what a row says."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdwebui_api.queueing.model import (
    HIGH,
    LOW,
    REQUEST_ID,
    Item,
    NewItem,
    callbacks_of,
    rear_of,
    sink_of,
)
from sdwebui_api.queueing.store import MOST_BYTES

PRIORITIES = (HIGH, LOW)
LARGEST = 2**63 - 1
"""The largest integer that sqlite knows; no index is as large."""


@dataclass(frozen=True)
class Queue:
    id: int
    name: str
    last_index: int
    length: int
    ended: bool


def find_queue(db: sqlite3.Connection, name: str) -> Queue | None:
    row = db.execute("SELECT id, name, last_index, length, ended FROM queues WHERE name = ?", (name,)).fetchone()
    return Queue(row[0], row[1], row[2], row[3], bool(row[4])) if row else None


def need_queue(db: sqlite3.Connection, name: str) -> Queue:
    """Makes it when it is new."""
    found = find_queue(db, name)
    if found is None:
        db.execute("INSERT INTO queues (name, derived) VALUES (?, ?)", (name, is_derived(name)))
        found = find_queue(db, name)
        assert found is not None
    return found


def is_derived(name: str) -> bool:
    """Whether a worker fills it: results, dead letters, callbacks."""
    service = name.rpartition("/")[0]
    return name in (sink_of(service), rear_of(service), callbacks_of(service))


def as_list(numbers: Iterable[int]) -> str:
    """For `IN (SELECT value FROM json_each(?))`. What cannot be an index is left out."""
    return json.dumps([number for number in numbers if 0 < number <= LARGEST])


def clamp(number: int) -> int:
    return min(max(number, -LARGEST), LARGEST)


class Filter:
    """Which items are wanted, by tags. Alias `k` in `tables` and `where` is the row that gives queue, priority, idx.

    The rarest tag is not known; the first one drives, and the others are looked up.
    """

    def __init__(self, tags: Mapping[str, str] | None = None, request_id: str | None = None) -> None:
        others = dict(tags or {})
        named = {value for value in (request_id, others.pop(REQUEST_ID, None)) if value is not None}
        self.by_request_id = bool(named)
        self.any = not named and not others
        self.impossible = len(named) > 1
        self.params: dict[str, Any] = {}
        self._pairs = sorted(others.items())
        for number, (name, value) in enumerate(self._pairs):
            self.params |= {f"name{number}": name, f"value{number}": value}
        if named:
            self.params["request_id"] = named.pop()
        self.tables, self.where = self._sql()

    def _sql(self) -> tuple[str, str]:
        if self.by_request_id or not self._pairs:
            named = "AND k.request_id = :request_id" if self.by_request_id else ""
            return "items k", f"k.live = 1 {named} {self._tagged('k', 0)}"
        return "item_tags k", f"k.name = :name0 AND k.value = :value0 {self._tagged('k', 1)}"

    def matches(self, alias: str) -> str:
        """Conditions (`AND …`) that the item of this index, of queue `:queue`, is wanted."""
        named = (
            f"AND EXISTS (SELECT 1 FROM items r WHERE r.queue = :queue AND r.idx = {alias}.idx"
            " AND r.request_id = :request_id)"
        )
        return f"{named if self.by_request_id else ''} {self._tagged(alias, 0)}"

    def _tagged(self, alias: str, skip: int) -> str:
        return " ".join(
            f"AND EXISTS (SELECT 1 FROM item_tags t{n} WHERE t{n}.queue = :queue AND t{n}.idx = {alias}.idx"
            f" AND t{n}.name = :name{n} AND t{n}.value = :value{n})"
            for n in range(skip, len(self._pairs))
        )


def find(
    db: sqlite3.Connection,
    queue: int,
    wanted: Filter,
    priority: int,
    *,
    low: int = 0,
    limit: int,
    newest: bool = False,
    also: str = "",
    params: Mapping[str, Any] | None = None,
) -> list[int]:
    """The indexes ≥ `low` of live items of one priority, in order. `also`: more conditions on `k`."""
    if wanted.impossible:
        return []
    rows = db.execute(
        f"SELECT k.idx FROM {wanted.tables} WHERE {wanted.where} AND k.queue = :queue AND k.priority = :priority"
        f" AND k.idx >= :low {also} ORDER BY k.idx {'DESC' if newest else ''} LIMIT :limit",
        {"queue": queue, "priority": priority, "low": low, "limit": limit, **wanted.params, **(params or {})},
    )
    return [index for (index,) in rows]


def load(db: sqlite3.Connection, queue: int, indexes: Sequence[int], *, data: bool = True) -> list[Item]:
    """These live items in this order; those that are gone are left out."""
    column, join = ("p.data", "JOIN payloads p ON p.id = i.id") if data else ("x''", "")
    rows = db.execute(
        f"SELECT i.idx, {column}, i.tags, i.priority, i.path, i.created FROM items i {join}"
        " WHERE i.queue = ? AND i.live = 1 AND i.idx IN (SELECT value FROM json_each(?))",
        (queue, as_list(indexes)),
    )
    found = {row[0]: Item(row[0], row[1], json.loads(row[2]), row[3], row[4], row[5]) for row in rows}
    return [found[index] for index in indexes if index in found]


def one_answer(db: sqlite3.Connection, queue: int, indexes: Sequence[int]) -> Sequence[int]:
    """The first of `indexes`: until their data is MOST_BYTES, at least one."""
    if len(indexes) < 2:
        return indexes
    rows = db.execute(
        "SELECT i.idx, length(p.data) FROM items i JOIN payloads p ON p.id = i.id"
        " WHERE i.queue = ? AND i.live = 1 AND i.idx IN (SELECT value FROM json_each(?))",
        (queue, as_list(indexes)),
    )
    sizes, total = dict(rows.fetchall()), 0
    for count, index in enumerate(indexes):
        if total > MOST_BYTES:
            return indexes[:count]
        total += sizes.get(index, 0)
    return indexes


def dump_tags(item: NewItem) -> str:
    return json.dumps(dict(item.tags), separators=(",", ":"))
