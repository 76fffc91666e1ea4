"""The loop all phases share: a budget, visible progress, checkpoints, and stopping without losing work.

A phase is a callable `step(number, progress) -> metrics`. Whatever is random in a step is seeded by the step's number
(`step_random`), so a resumed run goes on with the batches it would have had.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import torch
from torch import Tensor

Metrics = Mapping[str, float]


class Interrupted(Exception):
    """The user (Ctrl-C) or the system (SIGTERM) asked to stop; the checkpoint is on disk."""


@dataclass(frozen=True)
class Budget:
    """A number of steps, or else a number of minutes."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("a budget needs steps or minutes")

    def progress(self, steps: int, seconds: float) -> float:
        """Share of the budget that is spent; 1.0 or more means done."""
        if self.steps is not None:
            return steps / self.steps if self.steps else 1.0
        assert self.minutes is not None
        return seconds / (60 * self.minutes) if self.minutes else 1.0


@dataclass
class Position:
    """How far a phase is; kept in its checkpoint."""

    steps: int = 0
    seconds: float = 0.0


def learning_rate_factor(step: int, progress: float, warmup: int = 100, decay: float = 0.5) -> float:
    """Linear warm-up, constant, then linear fall to 2 % over the last `decay` of the budget.

    The warm-up takes `warmup` steps, or a twentieth of the budget where that is less.
    """
    warm = min(1.0, max((step + 1) / warmup, progress / 0.05))
    return warm * (min(1.0, max(0.0, 1 - progress) / decay) * 0.98 + 0.02)


def step_random(seed: int, phase: str, step: int) -> Random:
    return Random(f"{seed}/{phase}/{step}")


def seeded_generator(random: Random, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(random.getrandbits(63))


class Ema:
    """Exponential moving average of parameters; young averages forget quickly."""

    def __init__(self, parameters: list[Tensor], decay: float = 0.999) -> None:
        self.parameters, self.decay = parameters, decay
        self.averages = [p.detach().clone() for p in parameters]
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the averages and the parameters; calling it twice restores both."""
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            held = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(held)

    def state_dict(self) -> dict[str, Any]:
        return {"averages": self.averages, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for average, saved in zip(self.averages, state["averages"], strict=True):
            average.copy_(saved)
        self.updates = state["updates"]


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that an interruption leaves the old or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    return torch.load(path, map_location=device, weights_only=True)


@dataclass
class Loop:
    """Runs one phase to the end of its budget."""

    name: str
    budget: Budget
    save: Callable[[Position], None]
    save_minutes: float = 5.0
    report_seconds: float = 10.0
    report: Callable[[str], None] = field(default=lambda line: print(line, file=sys.stderr, flush=True))

    def run(self, step: Callable[[int, float], Metrics], position: Position) -> None:
        """Advance `position` step by step. Raises Interrupted after saving when asked to stop."""
        meter = _Meter(self, position)
        start = time.monotonic() - position.seconds
        saved_at = time.monotonic()
        with _stop_requests() as stop:
            while (progress := self.budget.progress(position.steps, position.seconds)) < 1:
                metrics = step(position.steps, progress)
                position.steps += 1
                position.seconds = time.monotonic() - start
                meter.add(metrics)
                if stop:
                    self.save(position)
                    raise Interrupted(f"stopped in phase {self.name} at step {position.steps}; go on with --resume")
                if time.monotonic() - saved_at > 60 * self.save_minutes:
                    self.save(position)
                    saved_at = time.monotonic()
        meter.print_line()
        self.save(position)


class _Meter:
    """Prints a line of averaged metrics every few seconds."""

    def __init__(self, loop: Loop, position: Position) -> None:
        self._loop, self._position = loop, position
        self._sums: dict[str, float] = {}
        self._steps = 0
        self._since = time.monotonic()

    def add(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1
        if time.monotonic() - self._since > self._loop.report_seconds:
            self.print_line()

    def print_line(self) -> None:
        if not self._steps:
            return
        position, elapsed = self._position, max(time.monotonic() - self._since, 1e-6)
        progress = self._loop.budget.progress(position.steps, position.seconds)
        left = position.seconds * (1 / progress - 1) if progress > 0 else 0
        values = "  ".join(f"{name} {total / self._steps:.4f}" for name, total in self._sums.items())
        self._loop.report(
            f"{self._loop.name} {min(progress, 1):4.0%}  step {position.steps}  {values}  "
            f"{self._steps / elapsed:.2f} steps/s  {_clock(max(left, 0))} left"
        )
        self._sums, self._steps, self._since = {}, 0, time.monotonic()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that becomes non-empty when SIGINT or SIGTERM arrives; a second one interrupts at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
