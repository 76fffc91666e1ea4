"""Control models with tensors lost or of other dimensions: refused, whatever the kind, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import T2IAdapter
from safetensors.torch import save_file
from torch import Tensor

from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.networks.ip_adapter import cross_attentions
from sdwebui_api.errors import UnusableModel
from tests.engine.networks.control_factory import controlnet_tensors, random_adapter, random_encoder, randomised

Tensors = dict[str, Tensor]


def ip_adapter(model: DiffusionModel) -> Tensors:
    layers = {number: layer.to_k.weight.shape[0] for number, layer in cross_attentions(model.unet.module)}
    return random_adapter(layers)


def t2i_adapter(_: DiffusionModel) -> Tensors:
    return randomised(T2IAdapter(in_channels=3, channels=[64, 128, 192], num_res_blocks=2, downscale_factor=8))


def controlnet(_: DiffusionModel) -> Tensors:
    return controlnet_tensors()


def lost(tensor: Tensor) -> None:
    return None


def flat(tensor: Tensor) -> Tensor:
    return tensor.flatten()


def narrow(tensor: Tensor) -> Tensor:
    return tensor[:, :-1].contiguous()


@pytest.mark.parametrize(
    ("make", "name", "change"),
    [
        (ip_adapter, "ip_adapter.1.to_v_ip.weight", lost),
        (ip_adapter, "ip_adapter.1.to_v_ip.weight", flat),
        (ip_adapter, "ip_adapter.1.to_k_ip.weight", narrow),
        (ip_adapter, "image_proj.proj.weight", flat),
        (t2i_adapter, "adapter.body.1.resnets.0.block1.weight", lost),
        (t2i_adapter, "adapter.body.1.resnets.0.block2.weight", flat),
        (t2i_adapter, "adapter.body.1.in_conv.weight", narrow),
        (controlnet, "controlnet_cond_embedding.conv_in.weight", flat),
        (controlnet, "controlnet_cond_embedding.conv_in.weight", narrow),
        (controlnet, "down_blocks.2.resnets.0.conv1.weight", lambda tensor: tensor[:1].contiguous()),
    ],
)
def test_refused(
    golden_engine: Engine,
    tiny: DiffusionModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[DiffusionModel], Tensors],
    name: str,
    change: Callable[[Tensor], Tensor | None],
) -> None:
    save_file(random_encoder(), tmp_path / "clip_h.safetensors")
    monkeypatch.setattr(golden_engine, "_encoder_folders", (tmp_path,))
    tensors = make(tiny)
    changed = change(tensors.pop(name))
    path = tmp_path / "broken.safetensors"
    save_file(tensors if changed is None else {**tensors, name: changed}, path)
    with pytest.raises(UnusableModel, match=r"broken\.safetensors"), golden_engine.control_network(path, tiny):
        pass
