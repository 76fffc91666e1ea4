from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import T2IAdapter as Reference
from safetensors.torch import save_file
from torch import Tensor, nn

from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.filling import Weights, materialise
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.networks.control import ControlInput
from sdwebui_api.engine.networks.t2i_adapter import T2IAdapter, assemble_adapter
from sdwebui_api.errors import UnusableModel
from tests.engine.networks.control_factory import randomised

CHANNELS = [64, 128, 192]


def reference(kind: str, hint_channels: int, channels: list[int] = CHANNELS) -> Reference:
    module = Reference(
        in_channels=hint_channels, channels=channels, num_res_blocks=2, downscale_factor=8, adapter_type=kind
    ).eval()
    module.load_state_dict(randomised(module))
    return module


def saved(folder: Path, tensors: dict[str, Tensor]) -> Path:
    path = folder / "t2iadapter.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def as_its_authors_name_it(tensors: dict[str, Tensor], light: bool) -> dict[str, Tensor]:
    named = {}
    for name, tensor in tensors.items():
        parts = name.removeprefix("adapter.").split(".")
        if parts[0] == "body" and parts[2] == "resnets":
            parts = (
                ["body", parts[1], "body", *parts[3:]]
                if light
                else ["body", str(int(parts[1]) * 2 + int(parts[3])), *parts[4:]]
            )
        elif parts[0] == "body" and not light:
            parts[1] = str(int(parts[1]) * 2)
        named[".".join(parts)] = tensor
    return named


@pytest.mark.parametrize("kind", ["full_adapter", "light_adapter"])
@pytest.mark.parametrize("hint_channels", [1, 3])
@pytest.mark.parametrize("layout", ["diffusers", "authors"])
def test_levels_equal_diffusers(golden_engine: Engine, kind: str, hint_channels: int, layout: str) -> None:
    light = kind == "light_adapter"
    theirs = reference(kind, hint_channels, [64, 128] if light else CHANNELS)
    tensors = dict(theirs.state_dict())
    if layout == "authors":
        tensors = as_its_authors_name_it(tensors, light)
    # A light adapter repeats its last width.
    unet = SimpleNamespace(config=SimpleNamespace(block_out_channels=(64, 128, 128) if light else CHANNELS))
    weights = Weights(torch.float32, torch.device("cpu"))
    module = materialise(assemble_adapter(tensors, unet), weights, "T2I-Adapter")
    network = T2IAdapter("key", module, torch.float32, golden_engine.device)
    hint = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(hint[:, :hint_channels])
    assert network.count == 3
    for one, other in zip(network.embed(hint), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_levels_are_added_before_the_skip_is_taken(golden_engine: Engine, tiny: DiffusionModel, tmp_path: Path) -> None:
    """diffusers' own way needs attention in every level; here its hooks are compared with additions by hand."""
    path = saved(tmp_path, dict(reference("full_adapter", 3).state_dict()))
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([300.0])
    context = torch.zeros(1, 77, 128)
    with golden_engine.control_network(path, tiny) as network:
        hint = network.embed(torch.rand(1, 3, 64, 64))
        ours = tiny.evaluate(x, t, context, control=(ControlInput(network, hint, torch.tensor([[0.5] * 3])),))
        none = tiny.evaluate(x, t, context, control=(ControlInput(network, hint, torch.zeros(1, 3)),))
    assert torch.equal(none, tiny.evaluate(x, t, context))

    module = tiny.unet.module
    ends = [block.attentions[-1] if hasattr(block, "attentions") else block.resnets[-1] for block in module.down_blocks]

    def adding(extra: Tensor):
        def hook(_module: nn.Module, _inputs: object, output: object) -> object:
            return (output[0] + extra,) if isinstance(output, tuple) else output + extra

        return hook

    handles = [end.register_forward_hook(adding(extra * 0.5)) for end, extra in zip(ends, hint, strict=True)]
    try:
        torch.testing.assert_close(tiny.evaluate(x, t, context), ours)
    finally:
        for handle in handles:
            handle.remove()
    assert not torch.allclose(ours, none)


def test_soft_weights(golden_engine: Engine, tiny: DiffusionModel, tmp_path: Path) -> None:
    path = saved(tmp_path, dict(reference("full_adapter", 3).state_dict()))
    with golden_engine.control_network(path, tiny) as network:
        assert network.soft_weights() == (0.62, 0.825, 1.0)


def test_misfits(golden_engine: Engine, tiny: DiffusionModel, tmp_path: Path) -> None:
    wide = saved(tmp_path, dict(reference("full_adapter", 3, [32, 64, 96]).state_dict()))
    with pytest.raises(UnusableModel, match="channels per level"), golden_engine.control_network(wide, tiny):
        pass
    broken = saved(tmp_path, {"body.0.block1.weight": torch.zeros(4, 4, 3, 3)})
    with pytest.raises(UnusableModel, match="T2I-Adapter"), golden_engine.control_network(broken, tiny):
        pass
