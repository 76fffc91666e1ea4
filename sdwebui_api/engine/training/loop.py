"""The loop that embeddings and hypernetworks share: batches, gradients, learning rate, clipping."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from sdwebui_api.engine.training.dataset import Batch, Dataset
from sdwebui_api.engine.training.schedule import StepSchedule
from sdwebui_api.errors import BadRequest

log = logging.getLogger(__name__)

AVERAGED = 32
"""Batches that the reported loss is the mean of."""
MOST_FAILURES = 20
"""Steps in a row without a finite gradient after which the training is given up."""


class Learner(Protocol):
    """What is being taught."""

    weight_decay: float

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """float32."""
        ...

    def accumulate(self, batch: Batch, scale: float) -> float:
        """Add the gradients of the batch's loss times `scale`; the loss. Holds the device for one batch at most."""
        ...


@dataclass(frozen=True)
class StepReport:
    """After a step. `step` counts from the very first one, also of an earlier training."""

    step: int
    loss: float
    """Mean of the last batches."""
    rate: float
    epoch: int
    prompt: str
    """The last one learned from."""


class Watch(Protocol):
    """Who accompanies the training."""

    @property
    def should_stop(self) -> bool:
        """End after this step; what was learned stays."""
        ...

    def check(self) -> None:
        """Raises Cancelled when everything is to be dropped."""
        ...

    def stepped(self, report: StepReport) -> None: ...


@dataclass(frozen=True)
class Clipping:
    """Limits gradients: each number (`value`) or their norm (`norm`); a limit may change with the step."""

    mode: Literal["disabled", "value", "norm"] = "disabled"
    limit: StepSchedule = field(default_factory=lambda: StepSchedule(((1.0, None),)))

    def apply(self, parameters: Sequence[nn.Parameter], step: int) -> None:
        limit = self.limit.at(step)
        if self.mode == "disabled" or limit is None:
            return
        if self.mode == "value":
            torch.nn.utils.clip_grad_value_(parameters, limit)
        else:
            torch.nn.utils.clip_grad_norm_(parameters, limit)


@dataclass(frozen=True)
class LoopSettings:
    steps: int
    """The step to end at, counted from the very first one."""
    rate: StepSchedule
    batch_size: int = 1
    gradient_step: int = 1
    """Batches per step."""
    clipping: Clipping = field(default_factory=Clipping)
    seed: int = 0


def train(
    learner: Learner, dataset: Dataset, settings: LoopSettings, watch: Watch, *, start: int = 0, half: bool = False
) -> int:
    """Teach `learner` from step `start` on; the step reached.

    Ends at `settings.steps`, when the rate's schedule is over, or when `watch` says so. `half`: the model computes in
    float16, whose gradients have to be scaled. Raises Cancelled, and BadRequest naming `learn_rate` when the numbers
    stop being finite.
    """
    optimizer = torch.optim.AdamW(learner.parameters, lr=1.0, weight_decay=learner.weight_decay)
    accumulation = _Accumulation(learner, dataset.batches(settings.batch_size, settings.seed), settings, half)
    for step in range(start, settings.steps):
        rate = settings.rate.at(step)
        if rate is None or watch.should_stop:
            return step
        if accumulation.gather(watch):
            settings.clipping.apply(learner.parameters, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        epoch = accumulation.seen // len(dataset.examples)
        watch.stepped(StepReport(step + 1, accumulation.loss, rate, epoch, accumulation.prompt))
    return max(start, settings.steps)


class _Accumulation:
    """Gathers the gradients of one step after the other, scaled against float16's small range."""

    def __init__(self, learner: Learner, batches: Iterator[Batch], settings: LoopSettings, half: bool) -> None:
        self._learner = learner
        self._batches = batches
        self._count = settings.gradient_step
        self._scale = 2.0**14 if half else 1.0
        self._failures = 0
        self._losses: deque[float] = deque(maxlen=AVERAGED)
        self.seen = 0
        """Examples so far."""
        self.prompt = ""

    @property
    def loss(self) -> float:
        return sum(self._losses) / len(self._losses) if self._losses else 0.0

    def gather(self, watch: Watch) -> bool:
        """True: the parameters have the gradients of a step. False: they are not finite, the step is left out."""
        for _ in range(self._count):
            watch.check()
            batch = next(self._batches)
            loss = self._learner.accumulate(batch, self._scale / self._count)
            if math.isfinite(loss):
                self._losses.append(loss)
            self.seen += len(batch.prompts)
            self.prompt = batch.prompts[-1]
        gradients = [parameter.grad for parameter in self._learner.parameters if parameter.grad is not None]
        finite = all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        self._note(finite)
        if finite:
            _divide(gradients, self._scale)
        return finite

    def _note(self, finite: bool) -> None:
        self._failures = 0 if finite else self._failures + 1
        if not finite:
            self._scale = max(self._scale / 2, 1.0)
        if self._failures > MOST_FAILURES:
            raise BadRequest("the training diverged: the numbers are not finite any more", field="learn_rate")


def _divide(gradients: Sequence[Tensor], scale: float) -> None:
    if scale != 1.0:
        for gradient in gradients:
            gradient.div_(scale)
