"""The one interface behind which queues are kept: sqlite (`stores/sqlite.py`) or Redis (`stores/redis.py`).

Every method that changes something returns only once the change is durable: on disk for sqlite
(`synchronous=FULL`), accepted by Redis under whatever durability that server is configured for. Every method may be
called at once by many tasks of an event loop, and by many processes (on many machines with Redis).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from sdwebui_api.errors import Busy, SdWebUIError, Unavailable
from sdwebui_api.queueing.model import Consumer, Delivery, Item, ItemState, NewItem, QueueStats, Receipt, TaskRecord

MOST_BYTES = 2**26
"""An answer with so much data is not made longer (Redis' scripts have the same number)."""


class QueueFull(Busy):
    """The queue holds as many items as it may."""


class Replaced(SdWebUIError):
    """A newer connection of the same consumer has taken over; this one must close."""

    status = 409


class StreamEnded(SdWebUIError):
    """The stream was ended by its writer: nothing can be put any more."""

    status = 409


class StoreUnavailable(Unavailable):
    """The store cannot be reached now (Redis is down, the disk is full). Nothing was acknowledged."""


class QueueStore(Protocol):
    """Queues by name; a queue exists from the first time it is named. Times are seconds.

    Tags are compared as whole strings; `requestId` is one of them. `remember`, an option of every store's constructor:
    for how many seconds consumers who are gone, and groups of nobody else, are remembered (300).
    """

    async def open(self) -> None:
        """Connects, makes what is missing. Raises StoreUnavailable."""
        ...

    async def close(self) -> None:
        """Finishes what was begun. Consumers of this process stay registered until their leases end."""
        ...

    # -- writing -------------------------------------------------------------------------------------

    async def put(self, queue: str, item: NewItem, *, max_length: int | None = None) -> Receipt:
        """Appends `item`. Idempotent by request id for as long as the store remembers it (the retention, at least
        while the item or its result exists): a second put answers the first one's index, whatever the limits say.

        Raises QueueFull when `max_length` items are there already, StreamEnded, StoreUnavailable.
        """
        ...

    async def finish(
        self,
        queue: str,
        delivery: Delivery,
        consumer: Consumer,
        result: NewItem | None,
        *,
        sink: str,
        failed: bool = False,
        dead: NewItem | None = None,
        callback: NewItem | None = None,
        max_sink_length: int | None = None,
    ) -> bool:
        """The worker's last act for an item, all or nothing in one transaction: `result` goes to `sink` (unless a
        result of this request id was written before, ever), `dead` to `rear_of`, `callback` to `callbacks_of`, the
        task record is updated, and the item leaves `queue`.

        False: the item had been finished already (by another worker, or deleted by a user); nothing was written.
        A consumer that lost its lease or was replaced may still finish first; then the other one's call returns
        False. `result` None: nothing is written to the sink. Raises QueueFull when the sink is full; the item stays
        with the consumer then. An ended sink takes the results of what was accepted.
        """
        ...

    async def end(self, queue: str, *, force: bool = False) -> None:
        """No more puts. With `force`, what nobody holds is dropped; its tasks are remembered as failed."""
        ...

    # -- consuming -----------------------------------------------------------------------------------

    async def join(self, queue: str, consumer: Consumer) -> None:
        """Registers the connection; an older one of the same (group, user) is replaced, and what it held and did not
        commit is free to be taken again at once (by this consumer first if it asks first; index order)."""
        ...

    async def leave(self, queue: str, consumer: Consumer) -> None:
        """What it holds goes back to the group, deliverable at once; the delivery counts. It must join again before it
        takes. No effect if it was replaced."""
        ...

    async def take(
        self, queue: str, consumer: Consumer, limit: int, *, lease: float, index_only: bool = False
    ) -> list[Delivery]:
        """At most `limit` items for this consumer, high priority first, then by index, fewer where they are large
        (`MOST_BYTES`); never waits, may be empty.

        Each is held for `lease` seconds (renewable) and invisible to the rest of the group meanwhile; after that it
        is deliverable again, with a higher `count`. With `consumer.auto_commit` (as given here, not as it
        joined) they are committed in the same transaction. `index_only`: items come without data. The caller keeps
        count of its window. Raises Replaced, also when the consumer never joined, left or was forgotten; StreamEnded
        when the stream has ended and holds nothing more for this consumer, not even something that is held now and may
        come back.
        """
        ...

    async def renew(self, queue: str, consumer: Consumer, indexes: Sequence[int], *, lease: float) -> list[int]:
        """Sets the leases to end `lease` seconds from now (later or sooner than before) and extends the consumer's
        registration (also with no indexes). The indexes still held; the others were lost to somebody else, given
        back or finished. A lease that ran out is held still while nobody else took the item. Raises Replaced."""
        ...

    async def commit(self, queue: str, group: str, indexes: Sequence[int]) -> None:
        """The group is done with these; an item leaves the queue when every group that has a registered consumer is
        done with it; its task is done then, without a result. Idempotent, any user of the group, also items that
        were never delivered."""
        ...

    async def release(self, queue: str, consumer: Consumer, indexes: Sequence[int], *, counts: bool = False) -> None:
        """Gives back: deliverable at once to the whole group. Without `counts` the delivery counts as not made.
        What this connection does not hold is left alone."""
        ...

    async def reject(self, queue: str, group: str, indexes: Sequence[int], *, counts: bool) -> list[Delivery]:
        """Negative commit by any user of the group: as `release`, whoever holds them. Returns what was given back,
        with data, and how often it was delivered (with `counts` this time included), so that the caller can give up
        what was tried too often (`delete`, `put` to the rear queue)."""
        ...

    # -- reading and removing ------------------------------------------------------------------------

    async def get(
        self,
        queue: str,
        *,
        start: int = 0,
        length: int = 1,
        request_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        delete: bool = False,
        group: str | None = None,
    ) -> list[Item]:
        """At most `length` items, fewer where they are large (`MOST_BYTES`); never waits. `start` 0: from the head, in
        order of priority then index. `start` N: from index N on, by index alone. -1: the newest alone. Outside of
        groups: nothing becomes pending. `delete` removes them for every group (a task is done then, without a result),
        and two calls never get the same item. Items that are pending in `group` are left out unless asked for by
        `request_id` or by the exact index (`start` > 0 and `length` 1)."""
        ...

    async def delete(self, queue: str, indexes: Sequence[int]) -> list[Item]:
        """Removes them for all groups, pending or not; unknown ones are no error. Returns what was removed (without
        data). A task that was still waiting or running is remembered as failed."""
        ...

    async def truncate(self, queue: str, below: int) -> int:
        """Removes every index < `below`, as `delete` does; how many they were. Not one transaction when many."""
        ...

    async def search(self, queue: str, index: int, *, group: str, service_group: str) -> ItemState | None:
        """None: finished, deleted or never there. Pending and ahead count in `group` when it has consumers here, else
        in `service_group` (the workers')."""
        ...

    async def count(self, queue: str, *, priority: int | None = None, tags: Mapping[str, str] | None = None) -> int: ...

    async def stats(self, queue: str, *, consumers: bool = True) -> QueueStats:
        """Cheap with 100,000 items waiting."""
        ...

    async def task(self, queue: str, request_id: str) -> TaskRecord | None:
        """What became of a request that was put to `queue`; running while any group holds it. None: never put, or
        forgotten."""
        ...

    # -- waiting and housekeeping --------------------------------------------------------------------

    async def wait(self, queue: str, seen: int, timeout: float) -> int:
        """Returns a number that differs from `seen` as soon as something may have become takeable (put, release,
        leave, replacement, end, a lease that ran out) or a window may have room (commit, finish, delete, truncate), at
        the latest after `timeout` with `seen` itself.

        Read the number with `wait(queue, -1, 0)`, then `take`, then wait with it: nothing is missed in between.
        Across processes a change is noticed within 50 ms.
        """
        ...

    async def sweep(self, *, retention: float, lease: float) -> None:
        """Once every few seconds by any process: forgets results (sinks, rear queues), task records and request ids
        older than `retention`; never requests that wait. Forgets consumers gone for 5 minutes and groups without
        consumers, so that an abandoned group keeps nothing in the queue. A consumer that was not renewed for `lease`
        counts as gone, until it is heard again; what it holds stays with it until the items' own leases end, and it is
        not forgotten before."""
        ...
