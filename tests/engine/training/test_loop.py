from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from sdwebui_api.engine.training.captions import PromptWriter
from sdwebui_api.engine.training.dataset import Batch, Dataset, Example
from sdwebui_api.engine.training.loop import Clipping, LoopSettings, StepReport, train
from sdwebui_api.engine.training.schedule import StepSchedule, parse_schedule
from sdwebui_api.errors import BadRequest, Cancelled

DATASET = Dataset(tuple(Example(str(i), "", torch.zeros(4, 8, 8)) for i in range(3)), PromptWriter(("a",), ""))


class Parabola:
    """Its loss is the square of its one number; `spoil` may change a gradient."""

    weight_decay = 0.0

    def __init__(self, spoil: Callable[[float], float] = lambda scale: 1.0) -> None:
        self.x = nn.Parameter(torch.tensor([1.0]))
        self.spoil = spoil
        self.scales: list[float] = []
        self.seen: list[torch.Tensor] = []

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [self.x]

    def accumulate(self, batch: Batch, scale: float) -> float:
        self.scales.append(scale)
        loss = self.x.square().sum()
        (loss * scale * self.spoil(scale)).backward()
        return loss.item()


class Watcher:
    def __init__(self, stop_at: int | None = None, cancel_at: int | None = None) -> None:
        self.reports: list[StepReport] = []
        self._stop_at, self._cancel_at = stop_at, cancel_at

    @property
    def should_stop(self) -> bool:
        return len(self.reports) == self._stop_at

    def check(self) -> None:
        if len(self.reports) == self._cancel_at:
            raise Cancelled("cancelled")

    def stepped(self, report: StepReport) -> None:
        self.reports.append(report)


def settings(rate: str = "0.1", steps: int = 20, **more) -> LoopSettings:
    return LoopSettings(steps, parse_schedule(rate, "learn_rate"), **more)


def test_it_learns_and_reports() -> None:
    learner, watcher = Parabola(), Watcher()
    assert train(learner, DATASET, settings(), watcher) == 20
    assert abs(learner.x.item()) < 0.3
    assert [report.step for report in watcher.reports] == list(range(1, 21))
    assert watcher.reports[-1].loss < watcher.reports[0].loss
    assert watcher.reports[-1].epoch == 20 // 3 and watcher.reports[-1].prompt == "a"


def test_the_rate_follows_its_schedule_and_ends_it() -> None:
    watcher = Watcher()
    assert train(Parabola(), DATASET, settings("0.1:2, 0.2:5"), watcher) == 5
    assert [report.rate for report in watcher.reports] == [0.1, 0.1, 0.2, 0.2, 0.2]


def test_it_goes_on_from_an_earlier_step() -> None:
    watcher = Watcher()
    assert train(Parabola(), DATASET, settings("0.1:2, 0.2"), watcher, start=18) == 20
    assert [(report.step, report.rate) for report in watcher.reports] == [(19, 0.2), (20, 0.2)]


def test_several_batches_per_step_are_averaged() -> None:
    learner = Parabola()
    train(learner, DATASET, settings(steps=2, gradient_step=4), Watcher())
    assert learner.scales == [0.25] * 8


def test_stopping_and_cancelling() -> None:
    assert train(Parabola(), DATASET, settings(), Watcher(stop_at=3)) == 3
    with pytest.raises(Cancelled):
        train(Parabola(), DATASET, settings(), Watcher(cancel_at=3))


@pytest.mark.parametrize(("mode", "limit", "expected"), [("value", 0.5, 0.5), ("norm", 0.25, 0.25), ("disabled", 0, 2)])
def test_clipping(mode, limit, expected) -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    parameter.grad = torch.tensor([2.0])
    Clipping(mode, StepSchedule(((limit, None),))).apply([parameter], 0)
    assert parameter.grad.item() == pytest.approx(expected, rel=1e-4)


def test_half_precision_gradients_are_scaled_until_they_fit() -> None:
    learner = Parabola(lambda scale: float("inf") if scale > 2**11 else 1.0)
    train(learner, DATASET, settings(), Watcher(), half=True)
    assert learner.scales[:4] == [2**14, 2**13, 2**12, 2**11] and set(learner.scales[3:]) == {2**11}
    assert abs(learner.x.item()) < 0.5


def test_numbers_that_are_none_end_the_training() -> None:
    with pytest.raises(BadRequest) as caught:
        train(Parabola(lambda scale: float("nan")), DATASET, settings(steps=1000), Watcher())
    assert caught.value.field == "learn_rate"
