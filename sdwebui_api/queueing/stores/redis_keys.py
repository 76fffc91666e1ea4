"""How queues, items and task records are written in Redis: names of keys and fields of stream entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from sdwebui_api.queueing.model import ConsumerStats, ConsumerStatus, Delivery, Item, NewItem, TaskRecord, TaskState

PREFIX = "sdwebui:"
LEAVING_SECONDS = 60.0
"""For how long a consumer who left uncommitted items counts as leaving, not as gone."""

Fields = list[bytes]


def base_of(queue: str) -> str:
    """What the keys of `queue` begin with. Queues of one service have the same hash tag, so that Redis Cluster keeps
    them on one node and one script may change them together."""
    service, slash, rest = queue.partition("/")
    hash_tag = quote(raw(service), safe="") or "%"
    return f"{PREFIX}{{{hash_tag}}}{slash}{quote(raw(rest))}"


def service_of(queue: str) -> str:
    """The key that lists the queues of the service that `queue` belongs to."""
    return f"{base_of(queue.partition('/')[0])}:queues"


def wake_channel(queue: str, database: int) -> str:
    return f"{base_of(queue)}:wake:{database}"


def text(value: bytes) -> str:
    return value.decode("utf-8", "surrogatepass")


def raw(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


def flat(tags: Mapping[str, str]) -> Iterator[bytes]:
    for key, value in tags.items():
        yield raw(key)
        yield raw(value)


def new_item(item: NewItem) -> list[str | bytes]:
    """The arguments with which scripts append an item: priority, path, data, then the tags."""
    return [str(item.priority), raw(item.path), item.data, *flat(item.tags)]


def pairs(fields: Fields) -> dict[bytes, bytes]:
    return dict(zip(fields[::2], fields[1::2], strict=True))


def tags_in(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {text(key[1:]): text(value) for key, value in fields if key.startswith(b"=")}


def seconds(milliseconds: bytes | int) -> float:
    return float(milliseconds) / 1000


def item_of(index: int, priority: int, fields: Fields) -> Item:
    found = pairs(fields)
    return Item(
        index=index,
        data=found.get(b"d", b""),
        tags=tags_in(found.items()),
        priority=priority,
        path=text(found[b"p"]),
        created=seconds(found[b"c"]),
    )


def delivery_of(answer: tuple[int, int, int, Fields]) -> Delivery:
    index, count, priority, fields = answer
    return Delivery(item_of(index, priority, fields), count)


def waiting_task(request_id: str, state: TaskState, index: int, fields: Fields) -> TaskRecord:
    item = item_of(index, 0, fields)
    return TaskRecord(request_id, index, state, item.tags, item.created)


def finished_task(request_id: str, state: TaskState, fields: Fields) -> TaskRecord:
    found = pairs(fields)
    return TaskRecord(
        request_id=request_id,
        index=int(found[b"i"]),
        state=state,
        tags=tags_in(found.items()),
        created=seconds(found[b"c"]),
        finished=seconds(found[b"f"]),
        result=found.get(b"r"),
    )


def consumer_stats(
    now: float, group: bytes, user: bytes, pending: int, uncommitted: int, fields: Fields
) -> ConsumerStats:
    """`now` in seconds, by the store's clock."""
    found = pairs(fields)
    return ConsumerStats(
        group=text(group),
        user=text(user),
        index=int(found.get(b"index", 0)),
        pending=pending,
        status=_status(now, found, bool(uncommitted)),
        idle_seconds=max(0.0, now - seconds(found.get(b"seen", b"0"))),
        window=int(found.get(b"window", 1)),
        auto_commit=found.get(b"auto") == b"1",
        tags=tags_in(found.items()),
    )


def _status(now: float, found: Mapping[bytes, bytes], uncommitted: bool) -> ConsumerStatus:
    since: Any = found.get(b"left") or found.get(b"gone")
    if since is None:
        return "Running"
    if not uncommitted:
        return "Complete"
    return "Leaving" if now - seconds(since) < LEAVING_SECONDS else "Exit"
