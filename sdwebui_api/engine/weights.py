"""Which weights are in memory: parts shared by those who need the same, kept while there is room.

A part (a UNet, a text encoder, a VAE) is loaded once however many ask for it, stays while anybody holds it, and is
dropped, the longest unused first, when others need the room.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Loaded:
    """What a loader returns: the part and the bytes it takes."""

    part: Any
    size: int


Load = Callable[[Callable[[int], None]], Loaded]
"""Loads a part. Is given a function to call, before it takes memory, with the bytes it is about to take."""


@dataclass(frozen=True)
class Resident:
    """A row of `WeightsCache.loaded()`."""

    key: Hashable
    size: int
    holders: int


@dataclass(eq=False)
class _Slot:
    ready: threading.Event = field(default_factory=threading.Event)
    loaded: Loaded | None = None
    error: BaseException | None = None
    size: int = 0
    """Bytes, reserved before they are taken."""
    holders: int = 0
    base: _Slot | None = None
    """The part whose memory this one shares; it stays as long as this one does."""
    sharers: int = 0
    """Parts in memory that share this one's."""
    last_used: float = 0.0

    @property
    def idle(self) -> bool:
        return self.holders == 0 and self.sharers == 0


class WeightsCache:
    """Parts by key, within `budget` bytes as far as parts in use allow. Thread-safe."""

    def __init__(self, budget: int, on_evict: Callable[[], None] | None = None) -> None:
        """`on_evict` is called, without a lock held, after parts were dropped (to give cached device memory back)."""
        self.budget = budget
        self._on_evict = on_evict
        self._mutex = threading.Lock()
        self._slots: dict[Hashable, _Slot] = {}
        self.hits = self.misses = 0
        """Leases that found their part in memory (or on its way), and those that loaded it."""

    @contextmanager
    def lease(
        self, key: Hashable, load: Load, kind: type[T], *, base: Hashable | None = None, keep: bool = True
    ) -> Iterator[T]:
        """The part `key` for the duration of the context, loaded in this thread if nobody has it.

        `base`: the key of a part, held by the caller, whose memory this one shares; its `size` is what it adds.
        `keep` False: the part is dropped afterwards, unless somebody else holds it by then.
        What `load` raises goes to everybody who waits for this key; the next one to ask tries again.
        """
        slot = self._hold(key, load, base)
        try:
            assert slot.loaded is not None
            yield cast(T, slot.loaded.part)
        finally:
            self._release(slot)
            if not keep:
                self._drop(key, slot)

    def _hold(self, key: Hashable, load: Load, base: Hashable | None) -> _Slot:
        with self._mutex:
            slot = self._slots.get(key)
            mine = slot is None
            if slot is None:
                slot = self._slots[key] = _Slot(base=None if base is None else self._slots[base])
                if slot.base is not None:
                    slot.base.sharers += 1
            slot.holders += 1
            self.hits += not mine
            self.misses += mine
        if mine:
            self._fill(key, slot, load)
        else:
            slot.ready.wait()
        if slot.error is not None:
            raise slot.error
        return slot

    def _fill(self, key: Hashable, slot: _Slot, load: Load) -> None:
        try:
            slot.loaded = load(lambda size: self._reserve(slot, size))
            slot.size = slot.loaded.size
        except BaseException as error:
            slot.error = error
            with self._mutex:
                self._forget(key)
        finally:
            slot.ready.set()

    def _reserve(self, slot: _Slot, size: int) -> None:
        """Drop idle parts, longest unused first, until `size` more bytes fit the budget or nothing idle is left.

        Only a load drops anything: with too small a budget the parts last used still stay for the next request.
        """
        with self._mutex:
            dropped = []
            while self._used() + size > self.budget and (idle := self._idle()):
                dropped.append(idle[0])
                self._forget(idle[0])
            slot.size = size
        self._dropped(dropped)

    def _idle(self) -> list[Hashable]:
        """The longest unused first. A part that others share memory with comes after them."""
        idle = [(key, slot) for key, slot in self._slots.items() if slot.idle]
        return [key for key, _ in sorted(idle, key=lambda item: item[1].last_used)]

    def _forget(self, key: Hashable) -> None:
        slot = self._slots.pop(key)
        if slot.base is not None:
            slot.base.sharers -= 1

    def _release(self, slot: _Slot) -> None:
        with self._mutex:
            slot.holders -= 1
            slot.last_used = time.monotonic()

    def _drop(self, key: Hashable, slot: _Slot) -> None:
        with self._mutex:
            drops = slot.idle and self._slots.get(key) is slot
            if drops:
                self._forget(key)
        self._dropped([key] if drops else [])

    def unload_all(self) -> int:
        """Drop every part nobody holds; the number dropped."""
        dropped: list[Hashable] = []
        with self._mutex:
            while idle := self._idle():
                dropped += idle
                for key in idle:
                    self._forget(key)
        self._dropped(dropped)
        return len(dropped)

    def _dropped(self, keys: list[Hashable]) -> None:
        if keys:
            log.info("dropped from memory: %s", ", ".join(str(key) for key in keys))
            if self._on_evict is not None:
                self._on_evict()

    def _used(self) -> int:
        return sum(slot.size for slot in self._slots.values())

    def loaded(self) -> list[Resident]:
        """The parts in memory, last used last."""
        with self._mutex:
            slots = sorted(self._slots.items(), key=lambda item: item[1].last_used)
            return [Resident(key, slot.size, slot.holders) for key, slot in slots if slot.loaded is not None]
