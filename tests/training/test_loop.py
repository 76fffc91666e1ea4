from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from training.loop import Budget, Ema, Interrupted, Loop, Position, learning_rate_factor, load_state, save_state
from training.muon import Muon, orthogonalised


def test_a_budget_counts_steps_or_minutes() -> None:
    assert Budget(steps=10).progress(5, 1e9) == 0.5
    assert Budget(minutes=2).progress(10**9, 60) == 0.5
    assert Budget(steps=0).progress(0, 0) == 1 and Budget(minutes=0).progress(0, 0) == 1
    with pytest.raises(ValueError):
        Budget()


def test_the_learning_rate_warms_up_holds_and_decays() -> None:
    assert learning_rate_factor(0, 0.0) == pytest.approx(0.01)
    assert learning_rate_factor(10, 0.05) == learning_rate_factor(200, 0.01) == learning_rate_factor(200, 0.4) == 1
    assert learning_rate_factor(200, 0.75) == pytest.approx(0.51)
    assert learning_rate_factor(200, 1.2) == pytest.approx(0.02)


def test_a_loop_reports_saves_and_resumes() -> None:
    lines: list[str] = []
    saved: list[int] = []
    position = Position(steps=3, seconds=7.0)
    loop = Loop(
        "vae", Budget(steps=6), lambda at: saved.append(at.steps), save_minutes=0, report_seconds=0, report=lines.append
    )
    loop.run(lambda number, progress: {"loss": float(number)}, position)
    assert position.steps == 6 and position.seconds >= 7 and saved[-1] == 6
    assert "step 4  loss 3.0000" in lines[0] and "steps/s" in lines[0] and "left" in lines[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_and_saves(number: signal.Signals) -> None:
    saved: list[int] = []
    position = Position()
    before = signal.getsignal(number)

    def step(at: int, progress: float) -> dict[str, float]:
        if at == 2:
            os.kill(os.getpid(), number)
        return {}

    with pytest.raises(Interrupted, match="--resume"):
        Loop("vae", Budget(steps=100), lambda at: saved.append(at.steps)).run(step, position)
    assert saved == [3] and position.steps == 3
    assert signal.getsignal(number) is before


def test_the_average_follows_and_swaps_with_the_parameters() -> None:
    parameter = torch.zeros(2)
    ema = Ema([parameter], decay=0.5)
    parameter.fill_(1)
    ema.update()
    ema.swap()
    averaged = parameter.clone()
    assert 0 < float(averaged[0]) <= 1
    ema.swap()
    assert torch.equal(parameter, torch.ones(2))


def test_a_state_survives_the_disk(tmp_path: Path) -> None:
    state = {"weights": {"a": torch.arange(3)}, "position": vars(Position(2, 3.5)), "vocabulary": [1, 2]}
    save_state(tmp_path / "new" / "state.pt", state)
    read = load_state(tmp_path / "new" / "state.pt", torch.device("cpu"))
    assert torch.equal(read["weights"]["a"], torch.arange(3)) and Position(**read["position"]) == Position(2, 3.5)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["state.pt"]


def test_muons_updates_are_near_orthogonal() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, 24, 40)
    singular = torch.linalg.svdvals(orthogonalised(matrices))
    assert float(singular.min()) > 0.5 and float(singular.max()) < 1.4
    tall = orthogonalised(matrices.mT)
    torch.testing.assert_close(tall, orthogonalised(matrices).mT, atol=0.02, rtol=0)


def test_muon_descends_and_takes_convolutions() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(8, 4, 3, 3))
    optimizer = Muon([weight], lr=0.05)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.8 * losses[0]
