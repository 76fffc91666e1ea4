"""Numbers that change with the step, as A1111 writes them: `0.005:100, 1e-3:1000, 1e-5`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sdwebui_api.errors import BadRequest

EXAMPLE = "0.005:100, 1e-3:1000, 1e-5"
LONGEST = 10_000
"""Characters."""


@dataclass(frozen=True)
class StepSchedule:
    """A value for every step, counted from 0. The last part may be open."""

    parts: tuple[tuple[float, int | None], ...]
    """(value, the step it no longer holds for); None: it holds to the end."""

    def at(self, step: int) -> float | None:
        """The value for `step`; None once the last part is over: nothing is left to do."""
        return next((value for value, until in self.parts if until is None or step < until), None)


def parse_schedule(text: str, field: str) -> StepSchedule:
    """`value:step` parts separated by commas; without a step, or with step -1, a part holds to the end.

    Raises BadRequest naming `field`. Follows A1111's `learn_schedule.LearnScheduleIterator`.
    """
    if len(text) > LONGEST:
        raise _wrong(text, field)
    words = [word.strip() for word in text.split(",")]
    parts = [_part(word, field) for word in words if word]
    ends = [until for _, until in parts]
    if not parts or None in ends[:-1] or sorted(ends, key=_open_last) != ends:
        raise _wrong(text, field)
    return StepSchedule(tuple(parts))


def _part(word: str, field: str) -> tuple[float, int | None]:
    value_text, colon, step_text = word.partition(":")
    try:
        value, until = float(value_text), int(step_text) if colon else -1
    except ValueError:
        raise _wrong(word, field) from None
    if not math.isfinite(value) or value < 0 or until < -1:
        raise _wrong(word, field)
    return value, None if until == -1 else until


def _open_last(until: int | None) -> float:
    return math.inf if until is None else until


def _wrong(text: str, field: str) -> BadRequest:
    message = f"{text[:100]!r} is no schedule: write one number, or numbers with the step each one ends at ({EXAMPLE})"
    return BadRequest(message, field=field)
