"""How many evaluations should share a forward pass: what the clock says, for `--max-step-batch auto`."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field

WORTH_IT = 0.95
"""A larger group may cost at most this much, per row, of what one half its size costs: it delays everybody."""
SAMPLES = 4
"""Forward passes that tell how long a size takes. The quickest counts: compilation, tuning and neighbours only add."""
TRUSTED = 200
"""Forward passes after which the sizes beside the chosen one are measured again."""
REMEMBERED = 64
"""Kinds of evaluations that are known at a time."""


@dataclass
class _Known:
    limit: int
    seconds: dict[int, deque[float]] = field(default_factory=dict)
    """Per row of the batch, of the last forward passes, by the number of evaluations in them."""
    since: int = 0
    """Forward passes since `limit` was chosen."""

    def per_row(self, size: int) -> float | None:
        samples = self.seconds.get(size, ())
        return min(samples) if len(samples) == SAMPLES else None


class FixedBatchSize:
    """`--max-step-batch N`."""

    def __init__(self, largest: int) -> None:
        self.largest = largest

    def limit(self, kind: Hashable) -> int:
        """Evaluations that one forward pass of this kind may take at most."""
        return self.largest

    def record(self, kind: Hashable, size: int, rows: int, seconds: float) -> None:
        """A forward pass of `size` evaluations, `rows` latents in all, took `seconds`."""


class LearnedBatchSize(FixedBatchSize):
    """Doubles and halves between 1 and `largest` (a power of two) to where one more no longer pays.

    Begins with `largest`, where it stays as long as half as many are not seen to do as well. Not thread-safe.
    """

    def __init__(self, largest: int) -> None:
        super().__init__(largest)
        self._known: OrderedDict[Hashable, _Known] = OrderedDict()

    def limit(self, kind: Hashable) -> int:
        known = self._known.get(kind)
        return self.largest if known is None else known.limit

    def record(self, kind: Hashable, size: int, rows: int, seconds: float) -> None:
        known = self._known.setdefault(kind, _Known(self.largest))
        self._known.move_to_end(kind)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        known.seconds.setdefault(size, deque(maxlen=SAMPLES)).append(seconds / rows)
        if size == known.limit:
            known.since += 1
            self._reconsider(known)

    def _reconsider(self, known: _Known) -> None:
        here = known.per_row(known.limit)
        if here is None:
            return
        smaller, larger = known.limit // 2, known.limit * 2
        below = known.per_row(smaller) if smaller else None
        above = known.per_row(larger) if larger <= self.largest else None
        if smaller and (below is None or here > WORTH_IT * below):
            self._choose(known, smaller)
        elif larger <= self.largest and (above is None or above <= WORTH_IT * here):
            self._choose(known, larger)
        elif known.since >= TRUSTED:
            known.seconds = {known.limit: known.seconds[known.limit]}
            known.since = 0

    def _choose(self, known: _Known, limit: int) -> None:
        known.limit, known.since = limit, 0
