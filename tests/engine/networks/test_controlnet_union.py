"""ControlNet-union: diffusers' own forward is the measure; every row has a kind of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetUnionModel
from safetensors.torch import save_file
from torch import Tensor

from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.networks.control import ControlInput
from sdwebui_api.errors import UnusableModel
from tests.engine.networks.control_factory import randomised

KINDS = 6


def union(kinds: int = KINDS) -> Any:
    """For the golden checkpoint: three levels, one residual block each, the first without attention."""
    return ControlNetUnionModel(
        block_out_channels=(64, 128, 192), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        cross_attention_dim=128, attention_head_dim=4, conditioning_embedding_out_channels=(16, 32, 96, 256),
        addition_time_embed_dim=32, num_control_type=kinds, num_trans_channel=64, num_trans_head=8,
        num_trans_layer=2, num_proj_channel=64,
    )  # fmt: skip


def union_tensors(kinds: int = KINDS) -> dict[str, Tensor]:
    return randomised(union(kinds))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(union_tensors(), tmp_path / "controlnet-union.safetensors")
    return tmp_path / "controlnet-union.safetensors"


def inputs(rows: int = 1) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(4)
    return {
        "x": torch.randn(rows, 4, 8, 8, generator=draw),
        "t": torch.full((rows,), 500.0),
        "context": torch.randn(rows, 77, 128, generator=draw),
    }


def picture(seed: int = 0) -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", [0, 3])
def test_residuals_equal_diffusers(golden_engine: Engine, tiny: DiffusionModel, path: Path, kind: int) -> None:
    reference = union().eval()
    reference.load_state_dict(union_tensors())
    given = inputs()
    control_type = torch.zeros(1, KINDS)
    control_type[0, kind] = 1
    with golden_engine.control_network(path, tiny) as network, torch.no_grad():
        assert network.kind == "controlnet_union" and network.kinds == KINDS and network.count == 7
        ours = network.residuals(**given, hint=network.embed_as(picture(), kind))
        down, middle = reference(
            given["x"], given["t"], given["context"], [picture()], control_type, [kind], return_dict=False
        )
    for one, other in zip(ours.tensors, (*down, middle), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_row_does_not_depend_on_the_rows_beside_it(golden_engine: Engine, tiny: DiffusionModel, path: Path) -> None:
    both = inputs(2)
    with golden_engine.control_network(path, tiny) as network:
        hints = [network.embed_as(picture(seed), kind) for seed, kind in ((1, 1), (2, 4))]
        ones = torch.ones(1, network.count)
        joint = ControlInput(network, tuple(torch.cat(parts) for parts in zip(*hints, strict=True)), ones.expand(2, -1))
        together = tiny.evaluate(**both, control=(joint,))
        for row, hint in enumerate(hints):
            alone = {name: tensor[row : row + 1] for name, tensor in both.items()}
            found = tiny.evaluate(**alone, control=(ControlInput(network, hint, ones),))
            torch.testing.assert_close(found, together[row : row + 1], atol=1e-4, rtol=1e-4)


def test_kinds_differ(golden_engine: Engine, tiny: DiffusionModel, path: Path) -> None:
    with golden_engine.control_network(path, tiny) as network:
        found = [
            tiny.evaluate(
                **inputs(), control=(ControlInput(network, network.embed_as(picture(), kind), torch.ones(1, 7)),)
            )
            for kind in range(KINDS)
        ]
    assert all((found[a] - found[b]).abs().max() > 1e-5 for a in range(KINDS) for b in range(a))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"add_embedding.linear_1.weight": torch.zeros(128, 96)}, "another family"),
        ({"add_embedding.linear_1.weight": torch.zeros(1)}, "unexpected shapes"),
        ({"spatial_ch_projs.weight": None}, "lack 'spatial_ch_projs"),
        ({"transformer_layes.1.ln_1.weight": None}, "missing"),
        ({"task_embedding": torch.zeros(6)}, "unexpected shapes"),
    ],
)
def test_files_that_do_not_fit(
    golden_engine: Engine, tiny: DiffusionModel, tmp_path: Path, change: dict[str, Tensor | None], words: str
) -> None:
    tensors = {name: tensor for name, tensor in {**union_tensors(), **change}.items() if tensor is not None}
    save_file(tensors, tmp_path / "union.safetensors")
    with (
        pytest.raises(UnusableModel, match=words),
        golden_engine.control_network(tmp_path / "union.safetensors", tiny),
    ):
        pass
