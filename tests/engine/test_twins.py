"""Twins share tensors and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sdwebui_api.engine.twins import twin_of


class Knot(nn.Module):
    """What deep copies stumble over: one module under two names, a reference to the whole, methods as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.same = self.first
        self.norm = nn.BatchNorm2d(3)
        self.notes: dict[str, Any] = {"sizes": [1, 2], "owner": None}
        self.call = self.whole

    def whole(self, x: Tensor) -> Tensor:
        return self.first(x) + 1


def test_a_twin_has_the_same_tensors_in_modules_of_its_own() -> None:
    knot = Knot()
    twin = twin_of(knot)
    assert [name for name, _ in twin.named_modules()] == [name for name, _ in knot.named_modules()]
    assert not {id(module) for module in twin.modules()} & {id(module) for module in knot.modules()}
    assert all(one is other for one, other in zip(twin.parameters(), knot.parameters(), strict=True))
    assert all(one is other for one, other in zip(twin.buffers(), knot.buffers(), strict=True))
    assert type(twin.norm) is nn.BatchNorm2d and (twin.norm.eps, twin.training) == (knot.norm.eps, True)


def test_what_is_hung_into_a_twin_does_not_touch_the_original() -> None:
    knot = Knot()
    twin = twin_of(knot)
    x = torch.ones(1, 2)
    before = knot.call(x)
    twin.first.weight = nn.Parameter(torch.zeros(3, 2))
    twin.first.register_forward_hook(lambda *_: torch.zeros(1, 3))
    twin.extra = nn.Linear(1, 1)
    twin.notes["sizes"].append(3)
    twin.norm.track_running_stats = False
    assert torch.equal(knot.call(x), before)
    assert torch.equal(twin.call(x), torch.ones(1, 3))
    assert not hasattr(knot, "extra") and knot.norm.track_running_stats
    assert knot.notes["sizes"] == [1, 2]


def test_names_for_one_module_stay_names_for_one_module() -> None:
    twin = twin_of(Knot())
    assert twin.same is twin.first
