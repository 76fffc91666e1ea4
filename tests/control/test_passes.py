from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from sdwebui_api.control.passes import ActiveUnit, PassControl, sampling_share
from sdwebui_api.control.preprocessors.table import find_preprocessor
from sdwebui_api.control.unit import ControlMode, ControlUnit
from sdwebui_api.engine.networks.control import ControlInput, Residuals, joined
from sdwebui_api.errors import BadRequest
from sdwebui_api.sampling.evaluation import Moment
from sdwebui_api.sampling.rows import Row

ROWS = (Row(0, True), Row(1, True), Row(0, False), Row(1, False))


class Network:
    key, kind, count, forced_conditional = "network", "controlnet", 3, False
    module: ClassVar[nn.Module] = nn.Identity()

    def soft_weights(self) -> tuple[float, ...]:
        return (0.25, 0.5, 1.0)

    def embed(self, hint: Tensor) -> tuple[Tensor, ...]:
        return (hint,)

    def residuals(self, *_: Any, **__: Any) -> Residuals:
        return Residuals()


def active(network: Any = None, rows: int = 1, module: str = "none", **fields: Any) -> ActiveUnit:
    unit = ControlUnit(find_preprocessor(module), module, None, field="args[0]", **fields)
    hint = torch.arange(rows, dtype=torch.float32)[:, None, None, None]
    return ActiveUnit(unit, network or Network(), (hint,))


def inputs(unit: ActiveUnit, number: int = 0, hires_pass: bool = False) -> tuple[ControlInput, ...]:
    adding = PassControl([unit], hires_pass=hires_pass).at(Moment(number, 10, 10), ROWS)
    return adding.inputs if adding is not None else ()


def test_weights_of_the_modes() -> None:
    assert inputs(active(weight=0.5))[0].scales[0].tolist() == [0.5, 0.5, 0.5]
    assert inputs(active(weight=0.5, control_mode=ControlMode.PROMPT))[0].scales.tolist() == [[0.125, 0.25, 0.5]] * 4
    scales = inputs(active(control_mode=ControlMode.CONTROL))[0].scales.tolist()
    assert scales == [[0.25, 0.5, 1.0]] * 2 + [[0.0] * 3] * 2
    assert inputs(active(advanced_weighting=(1.0, 2.0, 3.0)))[0].scales[0].tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(BadRequest):
        inputs(active(advanced_weighting=(1.0,)))


def test_line_maps_are_soft_in_the_hires_pass() -> None:
    assert inputs(active(module="canny"), hires_pass=True)[0].scales[0].tolist() == [0.25, 0.5, 1.0]
    assert inputs(active(module="invert"), hires_pass=True)[0].scales[0].tolist() == [1.0, 1.0, 1.0]


def test_networks_that_work_on_prompts_only() -> None:
    network = Network()
    network.forced_conditional = True
    assert inputs(active(network))[0].scales[:, 0].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_nothing_to_do_for_rows_of_negative_prompts() -> None:
    control = PassControl([active(control_mode=ControlMode.CONTROL)], hires_pass=False)
    assert control.at(Moment(0, 10, 10), ROWS[2:]) is None


def test_pictures_by_position_in_the_batch() -> None:
    assert inputs(active(rows=2))[0].hint[0].flatten().tolist() == [0.0, 1.0, 0.0, 1.0]
    assert inputs(active(rows=1))[0].hint[0].flatten().tolist() == [0.0] * 4


def test_the_guidance_window_counts_reported_steps() -> None:
    unit = active(guidance_start=0.2, guidance_end=0.7)
    assert [bool(inputs(unit, number)) for number in range(10)] == [False] * 3 + [True] * 6 + [False]


def test_share_of_samplers_that_evaluate_twice_a_step() -> None:
    assert [sampling_share(Moment(number, 8, 4)) for number in range(8)] == [0, 0, 0, 0.25, 0.25, 0.5, 0.5, 0.75]


def test_inputs_of_several_jobs_are_joined() -> None:
    one, two = inputs(active(weight=0.5)), inputs(active(weight=1.5))
    assert one[0].kind == two[0].kind
    (both,) = joined([one, two])
    assert both.scales[:, 0].tolist() == [0.5] * 4 + [1.5] * 4
    assert len(both.hint[0]) == 8
    assert joined([(), ()]) == ()
