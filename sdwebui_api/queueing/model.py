"""The vocabulary of the queue: items, consumers, deliveries. Plain values; no I/O.

A *queue* is one ordered stream of items with a name: `sd_async` holds requests, `sd_async/sink` their results. Every
*group* of consumers sees the whole stream; within a group each item goes to one *consumer*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

REQUEST_ID = "requestId"
"""The tag that names an item for its sender; the worker copies it to the result."""
LAST_CODE = "lastCode"
"""The tag of a failed result: its HTTP status in decimal. Absent on success."""
LOW, HIGH = 0, 1
"""The priorities. What a client sends is clamped to them."""
DEFAULT_GROUP = "eas"


def sink_of(service: str) -> str:
    """Where the results of `service` are read."""
    return f"{service}/sink"


def rear_of(service: str) -> str:
    """The dead letters of `service`: requests that were given up, with the reason in the tag `deadReason`."""
    return f"{service}/rear"


def callbacks_of(service: str) -> str:
    """Results that still have to be sent to their `callback_url`."""
    return f"{service}/callbacks"


@dataclass(frozen=True)
class NewItem:
    """What is put. `tags` always hold `requestId` (made by the door when the client gave none)."""

    data: bytes
    tags: Mapping[str, str]
    priority: int = LOW
    path: str = ""
    """The endpoint the worker calls, without a leading slash (`sdapi/v1/txt2img`); empty: the service's default."""

    @property
    def request_id(self) -> str:
        return self.tags[REQUEST_ID]


@dataclass(frozen=True)
class Item:
    """A stored item."""

    index: int
    """From 1, strictly growing per queue, never used again: not after truncate, delete or a restart."""
    data: bytes
    tags: Mapping[str, str]
    priority: int = LOW
    path: str = ""
    created: float = 0.0
    """Seconds since the epoch, by the store's clock."""

    @property
    def request_id(self) -> str:
        return self.tags.get(REQUEST_ID, "")


@dataclass(frozen=True)
class Receipt:
    """Of a put. `fresh` is False when an item with this request id had been put before: nothing was added then."""

    index: int
    request_id: str
    fresh: bool = True


@dataclass(frozen=True)
class Consumer:
    """Who takes: one connection of one user in one group.

    `connection` is new for every connection. A second connection of the same (group, user) replaces the first, whose
    items it inherits; the first one's next `take` or `renew` raises Replaced.
    """

    group: str
    user: str
    connection: str
    window: int = 1
    auto_commit: bool = False
    start: int = 0
    """0: everything the group has not committed. N: indexes from N. -1: only what is put after joining."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Only items that carry all of these. Others stay in the queue untouched."""

    @property
    def id(self) -> str:
        return f"{self.group}.{self.user}"


@dataclass(frozen=True)
class Delivery:
    """An item handed to a consumer. `count`: how often the group has been given it, this time included."""

    item: Item
    count: int


@dataclass(frozen=True)
class ItemState:
    """Answer of a search: where an item stands."""

    pending: bool
    """Some consumer has it now."""
    consumer_id: str
    """`<group>.<user>` of that consumer; empty while it waits."""
    ahead: int
    """Waiting items that will be delivered before it; 0 when pending."""


ConsumerStatus = Literal["Running", "Leaving", "Exit", "Complete"]


@dataclass(frozen=True)
class ConsumerStats:
    group: str
    user: str
    index: int
    """Of the newest item it was given; 0: none yet."""
    pending: int
    status: ConsumerStatus
    idle_seconds: float
    window: int
    auto_commit: bool
    tags: Mapping[str, str]


@dataclass(frozen=True)
class QueueStats:
    length: int
    """Items still in the queue, delivered ones included."""
    waiting: int
    """Items that nobody holds now."""
    first_index: int | None
    last_index: int | None
    """Of the newest item ever put; None on a queue that never held anything."""
    oldest_seconds: float
    """Age of the oldest item; 0 when empty."""
    consumers: tuple[ConsumerStats, ...] = ()
    groups: tuple[str, ...] = ()
    ended: bool = False


TaskState = Literal["queued", "running", "done", "failed"]


@dataclass(frozen=True)
class TaskRecord:
    """One request from its put until the retention has passed, for plain clients that poll by request id."""

    request_id: str
    index: int
    state: TaskState
    tags: Mapping[str, str]
    created: float
    finished: float | None = None
    result: bytes | None = None
    """What the sink got; None before, and when it was larger than stores keep (64 KB)."""
