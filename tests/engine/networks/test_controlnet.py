from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdwebui_api.engine.batcher import Evaluation, _forward
from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.networks.control import ControlInput, ControlNetwork
from sdwebui_api.engine.networks.controlnet import assemble_controlnet
from sdwebui_api.errors import UnusableModel
from tests.engine.networks.control_factory import controlnet_tensors

CANNY = Path(__file__).parents[2] / "golden" / "models" / "ControlNet" / "control_sd15_tiny_canny.safetensors"


@pytest.fixture(scope="module")
def canny(golden_engine: Engine, tiny: DiffusionModel) -> Iterator[ControlNetwork]:
    with golden_engine.control_network(CANNY, tiny) as network:
        yield network


def inputs(rows: int, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(rows, 4, 8, 8, generator=draw),
        "t": torch.full((rows,), 500.0),
        "context": torch.randn(rows, 77, 128, generator=draw),
    }


def hint(seed: int = 0, rows: int = 1) -> Tensor:
    return torch.rand(rows, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def added(network: ControlNetwork, weights: list[float], rows: int = 1, picture: Tensor | None = None) -> ControlInput:
    embedded = network.embed(hint() if picture is None else picture)
    scales = torch.tensor(weights)[None].expand(rows, -1)
    return ControlInput(network, tuple(tensor.expand(rows, -1, -1, -1) for tensor in embedded), scales)


def test_residuals_of_every_skip_and_of_the_middle(canny: ControlNetwork, tiny: DiffusionModel) -> None:
    assert canny.count == 7
    assert canny.soft_weights()[-1] == 1.0
    assert canny.soft_weights()[0] == pytest.approx(0.825**6)
    with torch.no_grad():
        found = canny.residuals(**inputs(2), hint=canny.embed(hint()))
    assert [tensor.shape[1] for tensor in found.tensors] == [64, 64, 64, 128, 128, 192, 192]


def test_weight_zero_changes_nothing(canny: ControlNetwork, tiny: DiffusionModel) -> None:
    plain = tiny.evaluate(**inputs(1))
    assert torch.equal(tiny.evaluate(**inputs(1), control=(added(canny, [0.0] * 7),)), plain)
    controlled = tiny.evaluate(**inputs(1), control=(added(canny, [1.0] * 7),))
    assert (controlled - plain).abs().max() > 1e-3


def test_two_units_add_up(canny: ControlNetwork, tiny: DiffusionModel) -> None:
    one = tiny.evaluate(**inputs(1), control=(added(canny, [1.0] * 7),))
    halves = tiny.evaluate(**inputs(1), control=(added(canny, [0.5] * 7), added(canny, [0.5] * 7)))
    torch.testing.assert_close(halves, one, atol=1e-4, rtol=1e-4)


def test_rows_have_their_own_weights_and_pictures(canny: ControlNetwork, tiny: DiffusionModel) -> None:
    rows = inputs(2)
    both = ControlInput(canny, canny.embed(torch.cat([hint(0), hint(1)])), torch.tensor([[1.0] * 7, [0.0] * 7]))
    found = tiny.evaluate(**rows, control=(both,))
    first = tiny.evaluate(**{k: v[:1] for k, v in rows.items()}, control=(added(canny, [1.0] * 7),))
    second = tiny.evaluate(**{k: v[1:] for k, v in rows.items()})
    torch.testing.assert_close(found, torch.cat([first, second]), atol=1e-4, rtol=1e-4)


def test_a_region_limits_the_residuals(canny: ControlNetwork, tiny: DiffusionModel) -> None:
    one = added(canny, [1.0] * 7)
    nowhere = ControlInput(canny, one.hint, one.scales, torch.zeros(1, 1, 64, 64))
    everywhere = ControlInput(canny, one.hint, one.scales, torch.ones(1, 1, 64, 64))
    assert torch.equal(tiny.evaluate(**inputs(1), control=(nowhere,)), tiny.evaluate(**inputs(1)))
    torch.testing.assert_close(
        tiny.evaluate(**inputs(1), control=(everywhere,)), tiny.evaluate(**inputs(1), control=(one,))
    )


def test_jobs_with_equal_control_sets_share_a_forward_pass(canny: ControlNetwork, tiny: DiffusionModel) -> None:
    evaluations = [
        Evaluation(**inputs(1, seed), control=(added(canny, [float(seed)] * 7, picture=hint(seed)),)) for seed in (1, 2)
    ]
    assert evaluations[0].kind == evaluations[1].kind
    assert evaluations[0].kind != Evaluation(**inputs(1)).kind
    with tiny.unet.holding():
        together = _forward(evaluations, tiny.unet)
        alone = [tiny.unet.forward(evaluation) for evaluation in evaluations]
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_diffusers_layout_is_the_same_network(
    canny: ControlNetwork, golden_engine: Engine, tiny: DiffusionModel, tmp_path: Path
) -> None:
    assembly = assemble_controlnet(load_file(CANNY), tiny.unet.module.config.attention_head_dim)
    path = tmp_path / "diffusers.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in assembly.tensors.items()}, path)
    with golden_engine.control_network(path, tiny) as network, torch.no_grad():
        ours = network.residuals(**inputs(1), hint=network.embed(hint()))
        theirs = canny.residuals(**inputs(1), hint=canny.embed(hint()))
    for one, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert torch.equal(one, other)


def test_pooled_residuals(golden_engine: Engine, tiny: DiffusionModel, tmp_path: Path) -> None:
    path = tmp_path / "control_shuffle.safetensors"
    path.write_bytes(CANNY.read_bytes())
    with golden_engine.control_network(path, tiny) as network, torch.no_grad():
        assert network.forced_conditional
        assert {tuple(r.shape[-2:]) for r in network.residuals(**inputs(1), hint=network.embed(hint())).tensors} == {
            (1, 1)
        }
        assert tiny.evaluate(**inputs(1), control=(added(network, [1.0] * 7),)).isfinite().all()


def load(engine: Engine, model: DiffusionModel, folder: Path, tensors: dict[str, Tensor]) -> Any:
    path = folder / "file.safetensors"
    save_file(tensors, path)
    with ExitStack() as stack:
        return stack.enter_context(engine.control_network(path, model))


def test_networks_of_other_dimensions_are_refused(golden_engine: Engine, tiny: DiffusionModel, tmp_path: Path) -> None:
    for tensors, words in (
        (controlnet_tensors(channels=32, context=128), "channels per level"),
        (controlnet_tensors(channels=64, context=64), "wide"),
    ):
        with pytest.raises(UnusableModel, match=words):
            load(golden_engine, tiny, tmp_path, tensors)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lllite_unet_input_blocks_1", "ControlLLLite"),
        ("down_blocks.0.motion_modules.0.weight", "SparseCtrl"),
        ("weight", "no control model"),
        ("control_model.zero_convs.0.0.weight", "file.safetensors"),
    ],
)
def test_other_files_are_refused_by_what_they_are(
    golden_engine: Engine, tiny: DiffusionModel, tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(UnusableModel, match=words):
        load(golden_engine, tiny, tmp_path, {name: torch.zeros(1)})


def test_loaded_once(golden_engine: Engine, tiny: DiffusionModel) -> None:
    found: list[ControlNetwork] = []

    def ask() -> None:
        with golden_engine.control_network(CANNY, tiny) as network:
            found.append(network)

    threads = [Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is found[1]


def test_a_kept_network_is_not_taken_for_a_unet_of_other_dimensions(
    golden_engine: Engine, tiny: DiffusionModel
) -> None:
    """Two checkpoints may have as many attention heads, and text encodings of different widths."""
    config = SimpleNamespace(**{**tiny.unet.module.config, "cross_attention_dim": 64})
    other: Any = SimpleNamespace(unet=SimpleNamespace(key="other", module=SimpleNamespace(config=config)))
    with golden_engine.control_network(CANNY, tiny):
        pass
    with pytest.raises(UnusableModel, match="64 wide"), golden_engine.control_network(CANNY, other):
        pass
