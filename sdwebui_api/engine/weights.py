"""Which weights are in memory: parts shared by those who need the same, kept while there is room.

A part (a UNet, a text encoder, a VAE) is loaded once however many ask for it, stays while anybody holds it, and makes
room for others, the longest unused first: on a GPU by going to rest in RAM, where it is dropped at last.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

log = logging.getLogger(__name__)

T = TypeVar("T")


class Moves(Protocol):
    """How a part gets from the device to RAM and back."""

    def rest(self) -> None: ...

    def wake(self) -> None:
        """Does nothing to a part that is on the device already."""
        ...


@dataclass(frozen=True)
class Loaded:
    """What a loader returns: the part and the bytes it takes."""

    part: Any
    size: int
    moves: Moves | None = None
    """None: it can only be dropped."""


@dataclass(frozen=True)
class Room:
    """Memory for parts: at most `budget` bytes, and no more than `left()` beyond what is taken."""

    budget: int
    left: Callable[[], int] = lambda: sys.maxsize


class Abandoned(Exception):
    """Raised by a loader that nobody needs any more; whoever does loads anew."""


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
    lives_in_ram: bool = False
    """Its home is RAM; it visits the device while it is used."""
    resting: bool = False
    """In RAM, or on its way there."""
    moving: threading.Lock = field(default_factory=threading.Lock)

    @property
    def in_ram(self) -> bool:
        return self.resting or self.lives_in_ram

    @property
    def idle(self) -> bool:
        return self.holders == 0 and self.sharers == 0


@dataclass
class _Leaving:
    """Parts that make room, as decided with the mutex held."""

    dropped: list[Hashable] = field(default_factory=list)
    resting: list[_Slot] = field(default_factory=list)
    freed: int = 0


class WeightsCache:
    """Parts by key, within the rooms as far as parts in use allow. Thread-safe."""

    def __init__(self, device: Room | int, on_evict: Callable[[], None] | None = None, ram: Room | None = None) -> None:
        """`device`: where parts work; `ram`: where they may rest besides, None where both are the same memory.

        `on_evict` is called, without a lock held, after parts have left (to give cached device memory back).
        """
        room = Room(device) if isinstance(device, int) else device
        self.budget, self._left = room.budget, room.left
        self._ram = ram
        self._on_evict = on_evict
        self._mutex = threading.Lock()
        self._slots: dict[Hashable, _Slot] = {}
        self.hits = self.misses = 0
        """Leases that found their part in memory (or on its way), and those that loaded it."""

    @contextmanager
    def lease(
        self,
        key: Hashable,
        load: Load,
        kind: type[T],
        *,
        base: Hashable | None = None,
        keep: bool = True,
        in_ram: bool = False,
    ) -> Iterator[T]:
        """The part `key` for the duration of the context, loaded in this thread if nobody has it.

        `base`: the key of a part, held by the caller, whose memory this one shares; its `size` is what it adds.
        `in_ram`: its home is RAM. `keep` False: the part is dropped afterwards, unless somebody else holds it by then.
        What `load` raises goes to everybody who waits for this key; the next one to ask tries again.
        """
        slot = self._hold(key, load, base, in_ram)
        try:
            assert slot.loaded is not None
            yield cast(T, slot.loaded.part)
        finally:
            self._release(slot)
            if not keep:
                self._drop(key, slot)

    def _hold(self, key: Hashable, load: Load, base: Hashable | None, in_ram: bool) -> _Slot:
        with self._mutex:
            slot = self._slots.get(key)
            mine = slot is None
            if slot is None:
                shares = None if base is None else self._slots[base]
                slot = self._slots[key] = _Slot(base=shares, lives_in_ram=in_ram)
                if slot.base is not None:
                    slot.base.sharers += 1
            slot.holders += 1
            self.hits += not mine
            self.misses += mine
        if mine:
            self._fill(key, slot, load)
        else:
            slot.ready.wait()
        if isinstance(slot.error, Abandoned) and not mine:
            return self._hold(key, load, base, in_ram)
        if slot.error is not None:
            raise slot.error
        if slot.loaded is not None and slot.loaded.moves is not None:
            self._wake(slot)
        return slot

    def _wake(self, slot: _Slot) -> None:
        """Back to the device, if it is not there. Everybody who holds the slot waits, whoever began to move it."""
        with slot.moving:
            if not slot.resting:
                return
            assert slot.loaded is not None and slot.loaded.moves is not None
            try:
                with self._mutex:
                    slot.resting, slot.size = False, 0
                self._reserve(slot, slot.loaded.size)
                slot.loaded.moves.wake()
            except BaseException:
                with self._mutex:
                    slot.resting, slot.size = True, slot.loaded.size
                self._release(slot)
                raise

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
        """Send idle parts away, longest unused first, until `size` more bytes fit or nothing idle is left.

        Only a load does: with too small a budget the parts last used still stay for the next request.
        """
        leaving = _Leaving()
        with self._mutex:
            on_ram = slot.lives_in_ram and self._ram is not None
            while not self._fits(size, on_ram, leaving) and (idle := self._idle(in_ram=on_ram)):
                self._send_away(idle[0], leaving)
            slot.size = size
        self._finish(leaving)

    def _fits(self, size: int, in_ram: bool, leaving: _Leaving) -> bool:
        ram = self._ram if in_ram else None
        budget, left = (ram.budget, ram.left) if ram is not None else (self.budget, self._left)
        return self._used(in_ram=in_ram) + size <= budget and size <= left() + leaving.freed

    def _send_away(self, key: Hashable, leaving: _Leaving) -> None:
        """To RAM where there is room for it, else out. Call with the mutex."""
        slot = self._slots[key]
        size, can_rest = slot.size, self._ram is not None and not slot.in_ram and slot.loaded and slot.loaded.moves
        if can_rest:
            while not self._fits(size, True, leaving) and (resting := self._idle(in_ram=True)):
                self._forget(resting[0])
                leaving.dropped.append(resting[0])
        if can_rest and self._fits(size, True, leaving):
            slot.resting = True
            leaving.resting.append(slot)
        else:
            self._forget(key)
            leaving.dropped.append(key)
            leaving.freed += size

    def _finish(self, leaving: _Leaving) -> None:
        """The moves themselves, without the mutex: others may go on."""
        for slot in leaving.resting:
            with slot.moving:
                if slot.resting and slot.loaded is not None and slot.loaded.moves is not None:
                    slot.loaded.moves.rest()
        self._dropped(leaving.dropped)
        if leaving.resting and not leaving.dropped and self._on_evict is not None:
            self._on_evict()

    def _idle(self, *, in_ram: bool | None = None) -> list[Hashable]:
        """The longest unused first. A part that others share memory with comes after them."""
        idle = [(key, slot) for key, slot in self._slots.items() if slot.idle and in_ram in (None, slot.in_ram)]
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
                slot.loaded = None  # the caller knows the slot still, and the memory is to be given back now
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

    def make_room(self) -> bool:
        """Send every part that nobody holds away from the device, to rest in RAM where it may; whether any went."""
        leaving = _Leaving()
        with self._mutex:
            while idle := self._idle(in_ram=False):
                for key in idle:
                    self._send_away(key, leaving)
        self._finish(leaving)
        return bool(leaving.dropped or leaving.resting)

    def _dropped(self, keys: list[Hashable]) -> None:
        if keys:
            log.info("dropped from memory: %s", ", ".join(str(key) for key in keys))
            if self._on_evict is not None:
                self._on_evict()

    def _used(self, *, in_ram: bool) -> int:
        """Without a RAM of their own all parts are on the device."""
        if self._ram is None:
            return 0 if in_ram else sum(slot.size for slot in self._slots.values())
        return sum(slot.size for slot in self._slots.values() if slot.in_ram == in_ram)

    def keep_newest(self, kind: str, count: int) -> None:
        """Of the parts whose keys begin with `kind` only the `count` last used stay, and those in use.

        Variants go with the part whose memory they share.
        """
        leaving = _Leaving()
        with self._mutex:
            for key, slot in self._older(kind, count):
                variants = [name for name, other in self._slots.items() if other.base is slot]
                if slot.holders == 0 and all(self._slots[name].idle for name in variants):
                    leaving.dropped += [*variants, key]
                    for name in (*variants, key):
                        self._forget(name)
        self._finish(leaving)

    def rest_but_newest(self, kind: str, count: int) -> None:
        """All but the `count` last used of them go to rest in RAM, unless they are in use or RAM is all there is."""
        leaving = _Leaving()
        with self._mutex:
            for key, slot in self._older(kind, count):
                if self._ram is not None and slot.idle and not slot.in_ram:
                    self._send_away(key, leaving)
        self._finish(leaving)

    def _older(self, kind: str, count: int) -> list[tuple[Hashable, _Slot]]:
        bases = [(key, slot) for key, slot in self._slots.items() if str(key).startswith(kind) and slot.base is None]
        bases.sort(key=lambda item: (item[1].holders > 0, self._last_used(item[1])), reverse=True)
        return bases[count:]

    def _last_used(self, slot: _Slot) -> float:
        """A checkpoint is used with its variants."""
        return max([slot.last_used, *(other.last_used for other in self._slots.values() if other.base is slot)])

    def has(self, key: Hashable) -> bool:
        """Whether a part is in memory, or on its way. It then counts as used just now."""
        with self._mutex:
            slot = self._slots.get(key)
            if slot is not None:
                slot.last_used = time.monotonic()
            return slot is not None

    def spare(self) -> int:
        """Bytes that fit on the device without sending anything away."""
        with self._mutex:
            return min(self.budget - self._used(in_ram=False), self._left())

    def loaded(self) -> list[Resident]:
        """The parts in memory, last used last."""
        with self._mutex:
            slots = sorted(self._slots.items(), key=lambda item: item[1].last_used)
            return [Resident(key, slot.size, slot.holders) for key, slot in slots if slot.loaded is not None]
