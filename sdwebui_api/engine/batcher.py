"""The StepBatcher: evaluations of all running jobs, grouped into shared forward passes.

There is no thread of its own. The job thread whose evaluation has waited longest leads: it holds the device, takes
along every waiting evaluation that fits (same weights, same shapes), runs one forward pass with a timestep per
sample, and hands the rows back. A lone job thus pays two short critical sections per step and nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from sdwebui_api.engine.batch_size import FixedBatchSize
from sdwebui_api.engine.devices import as_out_of_memory
from sdwebui_api.engine.networks.control import ControlInput, joined, optional_rows
from sdwebui_api.engine.stopwatch import Stopwatch
from sdwebui_api.errors import OutOfMemory

log = logging.getLogger(__name__)

WINDOW_SHARE = 0.15
"""A group waits for its usual companions at most this share of a forward pass …"""
WINDOW_SECONDS = 0.02
"""… and at most this long."""


@dataclass(frozen=True)
class Evaluation:
    """One call of the network by one job."""

    x: Tensor
    """[B, C, h, w]"""
    t: Tensor
    """[B] timesteps, whole or fractional"""
    context: Tensor
    """[B, T, D]"""
    concat: Tensor | None = None
    """[B, C', h, w] further input channels of inpainting and editing models"""
    tiling: bool = False
    control: tuple[ControlInput, ...] = ()
    """Control networks that add to what the UNet computes; rows as in x"""
    vector: Tensor | None = None
    """[B, V] what models with a label embedding get besides the context"""
    upcast: bool = False
    """Attention in float32"""
    merging: float = 0.0
    """Share of the tokens that are merged, see `token_merging.py`"""

    @property
    def kind(self) -> Hashable:
        """Evaluations of the same weights and the same kind fit into one forward pass."""
        extra = tuple(None if one is None else one.shape[1:] for one in (self.concat, self.vector))
        control = tuple(one.kind for one in self.control)
        x, context = self.x, self.context
        tensors = (x.shape[1:], x.dtype, x.device, context.shape[1:], context.dtype, context.device)
        return (*tensors, extra, self.tiling, self.upcast, self.merging, control)

    @property
    def cells(self) -> int:
        return self.x.shape[0] * self.x.shape[2] * self.x.shape[3]


class Network(Protocol):
    """Weights that can be evaluated."""

    key: str

    def holding(self) -> AbstractContextManager[None]:
        """Hold the device with these weights on it."""
        ...

    def forward(self, evaluation: Evaluation) -> Tensor:
        """[B, 4, h, w] float32; call while holding."""
        ...


@dataclass(eq=False)
class _Entry:
    network: Network
    evaluation: Evaluation
    taken: bool = False
    done: bool = False
    result: Tensor | None = None
    error: BaseException | None = None

    @property
    def weights_and_kind(self) -> Hashable:
        return self.network.key, self.evaluation.kind

    def fits(self, other: _Entry) -> bool:
        return self.weights_and_kind == other.weights_and_kind


@dataclass(eq=False)
class _Participant:
    """A sampling loop that is running, whose next evaluation is to be expected soon after its last result."""

    idle_since: float
    kind: Hashable | None = None
    waiting: bool = False
    gap: float = 0.0
    """How long it usually takes from a result to the next evaluation, seconds."""


@dataclass
class BatchStatistics:
    forwards: int = 0
    evaluations: int = 0
    largest: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    """Evaluations per forward pass, and how often there were that many."""


@dataclass
class _Line:
    """What the mutex guards."""

    waiting: list[_Entry] = field(default_factory=list)
    leader: _Entry | None = None
    participants: dict[tuple[int, str], _Participant] = field(default_factory=dict)
    forward_seconds: dict[str, float] = field(default_factory=dict)


class StepBatcher:
    """Groups evaluations, as many per forward pass as `sizes` says; a limit of 1 turns grouping off."""

    def __init__(
        self,
        sizes: FixedBatchSize | int = 8,
        max_cells: int = 16 * 64 * 64,
        stopwatch: Stopwatch | None = None,
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        """`max_cells`: latent area (rows times height times width) that a group may have; one alone may have more.

        `stopwatch`: of the device (default: a CPU's). `make_room` is called, with the device free, when one evaluation
        alone has run out of memory: whether a second attempt has more.
        """
        self._sizes = FixedBatchSize(sizes) if isinstance(sizes, int) else sizes
        self.largest_group = self._sizes.largest
        self.statistics = BatchStatistics()
        self._max_cells = max_cells
        self._stopwatch = stopwatch or Stopwatch()
        self._make_room = make_room
        self._line = _Line()
        self._changed = threading.Condition()

    @contextmanager
    def participate(self, key: str) -> Iterator[None]:
        """Announce that this thread is running a sampling loop on the weights `key`."""
        name = (threading.get_ident(), key)
        with self._changed:
            nested = name in self._line.participants
            if not nested:
                self._line.participants[name] = _Participant(idle_since=time.monotonic())
        try:
            yield
        finally:
            if not nested:
                with self._changed:
                    del self._line.participants[name]
                    self._changed.notify_all()

    def evaluate(self, network: Network, evaluation: Evaluation) -> Tensor:
        """[B, 4, h, w] float32. Raises what this evaluation's forward raised; OutOfMemory when it did not fit."""
        entry = _Entry(network, evaluation)
        participant = self._arrive(entry)
        try:
            if self._wait_for_turn(entry):
                self._lead(entry)
        finally:
            self._leave(entry, participant)
        if entry.error is not None:
            raise entry.error
        assert entry.result is not None
        return entry.result

    # --- the line ---------------------------------------------------------------------------------------------

    def _arrive(self, entry: _Entry) -> _Participant | None:
        with self._changed:
            participant = self._line.participants.get((threading.get_ident(), entry.network.key))
            if participant is not None:
                if participant.kind is not None:
                    # Clipped, so that one long pause (a preview) is soon forgotten.
                    gap = min(time.monotonic() - participant.idle_since, 2 * WINDOW_SECONDS)
                    participant.gap = (participant.gap + gap) / 2
                participant.kind = entry.evaluation.kind
                participant.waiting = True
            self._line.waiting.append(entry)
            if self._line.leader is not None:
                self._changed.notify_all()
            return participant

    def _wait_for_turn(self, entry: _Entry) -> bool:
        """True: this thread leads the next group. False: somebody else has run the evaluation."""
        with self._changed:
            while not entry.done:
                if not entry.taken and self._line.leader is None and self._line.waiting[0] is entry:
                    self._line.leader = entry
                    return True
                self._changed.wait()
            return False

    def _leave(self, entry: _Entry, participant: _Participant | None) -> None:
        with self._changed:
            if entry in self._line.waiting:  # the wait was broken off
                self._line.waiting.remove(entry)
                self._changed.notify_all()
            if participant is not None:
                participant.waiting = False
                participant.idle_since = time.monotonic()

    # --- leading ----------------------------------------------------------------------------------------------

    def _lead(self, leader: _Entry) -> None:
        group: list[_Entry] = []
        try:
            self._await_companions(leader)
            with leader.network.holding():
                group = self._take_group(leader)
                self._run(group)
            self._try_again(group)
        except BaseException as error:
            for entry in group or [leader]:
                if not entry.done and entry.error is None:
                    entry.error = error
            raise
        finally:
            with self._changed:
                for entry in group:
                    entry.done = True
                self._line.leader = None
                self._changed.notify_all()

    def _await_companions(self, leader: _Entry) -> None:
        """Give those who usually come along a moment to arrive."""
        if self.largest_group == 1:
            return
        with self._changed:
            while len(self._companions(leader)) < self._limit(leader):
                remaining = self._expected_at(leader) - time.monotonic()
                if remaining <= 0:
                    return
                self._changed.wait(remaining)

    def _limit(self, leader: _Entry) -> int:
        return self._sizes.limit(leader.weights_and_kind)

    def _companions(self, leader: _Entry) -> list[_Entry]:
        return [entry for entry in self._line.waiting if entry.fits(leader)]

    def _expected_at(self, leader: _Entry) -> float:
        """Until when it pays to wait: the last moment at which a loop of the same weights and kind should arrive."""
        key, kind = leader.network.key, leader.evaluation.kind
        window = min(WINDOW_SHARE * self._line.forward_seconds.get(key, 0.0), WINDOW_SECONDS)
        expected = [
            participant.idle_since + window
            for (_, participant_key), participant in self._line.participants.items()
            if participant_key == key
            and not participant.waiting
            and participant.kind in (None, kind)
            and participant.gap <= window
        ]
        return max(expected, default=0.0)

    def _take_group(self, leader: _Entry) -> list[_Entry]:
        """The leader and the oldest that fit, within both limits."""
        with self._changed:
            group, cells, limit = [leader], leader.evaluation.cells, self._limit(leader)
            for entry in self._companions(leader):
                if len(group) >= limit or cells + entry.evaluation.cells > self._max_cells:
                    break
                if entry is not leader:
                    group.append(entry)
                    cells += entry.evaluation.cells
            for entry in group:
                entry.taken = True
                self._line.waiting.remove(entry)
            return group

    def _try_again(self, group: Sequence[_Entry]) -> None:
        """What ran out of memory though it was alone, after others' idle weights have made room."""
        failed = [entry for entry in group if isinstance(entry.error, OutOfMemory)]
        if failed and self._make_room():
            with group[0].network.holding():
                for entry in failed:
                    entry.error = None
                    self._run([entry])

    def _run(self, group: Sequence[_Entry]) -> None:
        """Fill every entry's result or error. A failure of the group is retried in parts, so that it hits one only."""
        started = self._stopwatch.start()
        try:
            rows = _forward([entry.evaluation for entry in group], group[0].network)
        except Exception as error:  # any failure belongs to the entry that causes it, whatever it is
            self._retry(group, error)
            return
        for entry, result in zip(group, rows, strict=True):
            entry.result = result
        self._count(group)
        self._stopwatch.stop(started, self._recorder(group))

    def _retry(self, group: Sequence[_Entry], error: Exception) -> None:
        out_of_memory = as_out_of_memory(error)
        if len(group) == 1:
            group[0].error = out_of_memory or error
            return
        if out_of_memory is None:
            parts = [[entry] for entry in group]
        else:
            self._learn_limit(group)
            parts = [list(group[: len(group) // 2]), list(group[len(group) // 2 :])]
        # Leave the failed attempt's frames behind before the next: they hold its tensors.
        error.__traceback__ = None
        for part in parts:
            self._run(part)

    def _learn_limit(self, group: Sequence[_Entry]) -> None:
        cells = sum(entry.evaluation.cells for entry in group)
        self._max_cells = min(self._max_cells, cells // 2)
        log.warning("%d evaluations together ran out of memory; groups are smaller from now on", len(group))

    def _recorder(self, group: Sequence[_Entry]) -> Callable[[float], None]:
        """Remembers how many seconds `group` took; holds none of its tensors."""
        key, weights_and_kind, size = group[0].network.key, group[0].weights_and_kind, len(group)
        rows = sum(entry.evaluation.x.shape[0] for entry in group)

        def record(seconds: float) -> None:
            with self._changed:
                known = self._line.forward_seconds.get(key, seconds)
                self._line.forward_seconds[key] = 0.8 * known + 0.2 * seconds
                self._sizes.record(weights_and_kind, size, rows, seconds)

        return record

    def _count(self, group: Sequence[_Entry]) -> None:
        with self._changed:
            self.statistics.forwards += 1
            self.statistics.evaluations += len(group)
            self.statistics.largest = max(self.statistics.largest, len(group))
            self.statistics.sizes[len(group)] = self.statistics.sizes.get(len(group), 0) + 1


def _forward(evaluations: Sequence[Evaluation], network: Network) -> Sequence[Tensor]:
    if len(evaluations) == 1:
        return [network.forward(evaluations[0])]
    together = Evaluation(
        x=torch.cat([evaluation.x for evaluation in evaluations]),
        t=torch.cat([evaluation.t for evaluation in evaluations]),
        context=torch.cat([evaluation.context for evaluation in evaluations]),
        concat=optional_rows([evaluation.concat for evaluation in evaluations]),
        tiling=evaluations[0].tiling,
        control=joined([evaluation.control for evaluation in evaluations]),
        vector=optional_rows([evaluation.vector for evaluation in evaluations]),
        upcast=evaluations[0].upcast,
        merging=evaluations[0].merging,
    )
    return network.forward(together).split([evaluation.x.shape[0] for evaluation in evaluations])
