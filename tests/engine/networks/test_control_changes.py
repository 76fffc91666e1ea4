from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdwebui_api.config.flags import parse_flags
from sdwebui_api.config.paths import Paths
from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.networks.control import ControlNetwork
from sdwebui_api.errors import UnusableModel
from tests.engine.conftest import checkpoints

MODELS = Path(__file__).parents[2] / "golden" / "models"
PREFIX = "model.diffusion_model."
RANK = 4


@pytest.fixture(scope="module")
def base() -> dict[str, Tensor]:
    """The UNet's own tensors in original names."""
    tensors = load_file(MODELS / "Stable-diffusion" / "tiny-sd.safetensors")
    return {name.removeprefix(PREFIX): t.float() for name, t in tensors.items() if name.startswith(PREFIX)}


@pytest.fixture(scope="module")
def own() -> dict[str, Tensor]:
    """What only a ControlNet has."""
    tensors = load_file(MODELS / "ControlNet" / "control_sd15_tiny_canny.safetensors")
    bare = {name.removeprefix("control_model."): tensor.float() for name, tensor in tensors.items()}
    return {n: t for n, t in bare.items() if n.startswith(("input_hint_block", "zero_convs", "middle_block_out"))}


def shared(base: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t for n, t in base.items() if n.startswith(("time_embed", "input_blocks", "middle_block"))}


def residuals(engine: Engine, model: DiffusionModel, path: Path) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    x, context = torch.randn(1, 4, 8, 8, generator=draw), torch.randn(1, 77, 128, generator=draw)
    hint = torch.rand(1, 3, 64, 64, generator=draw)
    with engine.control_network(path, model) as network, torch.no_grad():
        assert network.kind == "controlnet"
        x, context = x.to(model.unet.module.dtype), context.to(model.unet.module.dtype)
        return network.residuals(x, torch.tensor([500.0]), context, network.embed(hint)).tensors


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def test_control_lora_is_the_controlnet_it_stands_for(
    golden_engine: Engine, tiny: DiffusionModel, base: dict[str, Tensor], own: dict[str, Tensor], tmp_path: Path
) -> None:
    draw = torch.Generator().manual_seed(1)
    whole = dict(own)
    lora = {**own, "lora_controlnet": torch.zeros(1)}
    for name, tensor in shared(base).items():
        if not name.endswith(".weight") or tensor.ndim == 1:
            whole[name] = lora[name] = tensor + 0.01
            continue
        layer, rest = name.removesuffix(".weight"), tensor.shape[1:]
        up = torch.randn(tensor.shape[0], RANK, *(1 for _ in rest[1:]), generator=draw) * 0.05
        down = torch.randn(RANK, *rest, generator=draw) * 0.05
        lora |= {f"{layer}.up": up, f"{layer}.down": down}
        whole[name] = tensor + (up.flatten(1) @ down.flatten(1)).reshape(tensor.shape)
    expected = saved(tmp_path / "whole.safetensors", {f"control_model.{n}": t for n, t in whole.items()})
    found = residuals(golden_engine, tiny, saved(tmp_path / "lora.safetensors", lora))
    for one, other in zip(found, residuals(golden_engine, tiny, expected), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_control_lora_reads_a_unet_in_half_precision(
    golden_engine: Engine, golden_paths: Paths, tiny: DiffusionModel, own: dict[str, Tensor], tmp_path: Path
) -> None:
    """On a CPU that multiplies bfloat16 its weights are packed, and the ControlNet's become so."""
    path = saved(tmp_path / "lora.safetensors", {**own, "lora_controlnet": torch.zeros(1)})
    half = Engine(parse_flags(["--use-cpu", "all", "--models-dir", str(MODELS)], {}), golden_paths)
    with half.lease(checkpoints(golden_paths)[0]) as model:
        found = residuals(half, model, path)
    for one, other in zip(found, residuals(golden_engine, tiny, path), strict=True):
        error = (one.float() - other).square().mean().sqrt() / other.square().mean().sqrt()
        assert error < 0.03


def test_differences(
    golden_engine: Engine, tiny: DiffusionModel, base: dict[str, Tensor], own: dict[str, Tensor], tmp_path: Path
) -> None:
    draw = torch.Generator().manual_seed(2)
    change = {name: torch.randn(t.shape, generator=draw) * 0.01 for name, t in shared(base).items()}
    whole = own | {name: base[name] + tensor for name, tensor in change.items()}
    expected = saved(tmp_path / "whole.safetensors", {f"control_model.{n}": t for n, t in whole.items()})
    difference = {f"control_model.{n}": t for n, t in (own | change).items()} | {"difference": torch.zeros(1)}
    found = residuals(golden_engine, tiny, saved(tmp_path / "difference.safetensors", difference))
    for one, other in zip(found, residuals(golden_engine, tiny, expected), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_changes_of_other_dimensions(
    golden_engine: Engine, tiny: DiffusionModel, own: dict[str, Tensor], tmp_path: Path
) -> None:
    wrong = {**own, "lora_controlnet": torch.zeros(1)}
    wrong |= {"time_embed.0.up": torch.zeros(8, RANK), "time_embed.0.down": torch.zeros(RANK, 8)}
    path = saved(tmp_path / "wrong.safetensors", wrong)
    with pytest.raises(UnusableModel, match=r"wrong.safetensors: a ControlLoRA for other dimensions"):
        residuals(golden_engine, tiny, path)


def test_changes_are_kept_apart_by_the_unet(
    golden_engine: Engine, tiny: DiffusionModel, own: dict[str, Tensor], tmp_path: Path
) -> None:
    path = saved(tmp_path / "lora.safetensors", {**own, "lora_controlnet": torch.zeros(1)})
    found: list[ControlNetwork] = []
    with golden_engine.control_network(path, tiny) as network:
        found.append(network)
    assert tiny.unet.key in found[0].key
