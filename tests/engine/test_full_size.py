"""SD1.5 and SD2.1-v at their real sizes, in single files of the original layout: read as diffusers reads them, offline.

SDXL has `test_full_size_sdxl.py`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.make_checkpoint import write_checkpoint
from sdwebui_api.config.flags import parse_flags
from sdwebui_api.config.paths import Paths
from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.packed import dense
from tests.engine.conftest import checkpoints

pytestmark = pytest.mark.slow

# The `config.json`s of the published models, as far as they differ from the classes' defaults.
UNETS: Mapping[str, Mapping[str, Any]] = {
    "sd1": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2-v": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
}
TEXTS: Mapping[str, Mapping[str, Any]] = {
    "sd1": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12},
    "sd2-v": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 23,
        "hidden_act": "gelu",
    },
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


@pytest.fixture(params=["sd1", "sd2-v"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(family: str, tmp_path: Path) -> Iterator[Path]:
    path = write_checkpoint(tmp_path / f"{family}.safetensors", family, torch.float16)
    yield path
    path.unlink()


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_socket: socket.socket, address: Any) -> None:
        raise AssertionError(f"somebody wants to connect to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_every_part_is_diffusers(family: str, path: Path, tmp_path: Path) -> None:
    folders = ["--data-dir", str(tmp_path / "data"), "--models-dir", str(tmp_path / "none")]
    flags = parse_flags([*folders, "--ckpt-dir", str(path.parent), "--use-cpu", "all"], {})
    paths = Paths.from_flags(flags)
    tensors = load_file(path)
    with Engine(flags, paths).lease(checkpoints(paths)[0]) as model:
        assert model.prediction_type == ("v_prediction" if family == "sd2-v" else "epsilon")
        same(model.unet.module, UNet2DConditionModel, UNETS[family], lambda unet: unet_of(unet, tensors))
        with model.text_encoder._lent.module() as text_model:
            same(text_model, CLIPTextModel, TEXTS[family], lambda text: text_of(family, text, tensors))
        model.encode(torch.zeros(1, 3, 64, 64), None)  # its encoder comes when it is wanted
        same(model._vae._module, AutoencoderKL, VAE, lambda vae: convert_ldm_vae_checkpoint(dict(tensors), vae.config))
        assert torch.isfinite(one_step(model)).all()


def same(ours: Any, kind: Any, config: Mapping[str, Any], convert: Callable[[Any], dict[str, Tensor]]) -> None:
    """Our module holds what diffusers' conversion gives for its own; no more, no less; and is configured like it."""
    with torch.device("meta"):
        theirs = kind(CLIPTextConfig(**config)) if kind is CLIPTextModel else kind(**config)
    converted = convert(theirs)
    state = ours.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(dense(tensor), converted[name].to(tensor.dtype)) for name, tensor in state.items())
    for name in config.keys() - {"attention_head_dim"}:
        assert getattr(ours.config, name) == getattr(theirs.config, name), name
    assert [module.heads for module in ours.modules() if hasattr(module, "heads")] == [
        module.heads for module in theirs.modules() if hasattr(module, "heads")
    ]


def unet_of(unet: UNet2DConditionModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return convert_ldm_unet_checkpoint(dict(tensors), dict(unet.config))


def text_of(family: str, text: CLIPTextModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = dict(tensors)
    found = convert_ldm_clip_checkpoint(plain) if family == "sd1" else convert_open_clip_checkpoint(text, plain)
    return {name.removeprefix("text_model."): tensor for name, tensor in found.items()}


def one_step(model: DiffusionModel) -> Tensor:
    tokens = torch.tensor([[49406, *range(320, 330), *[49407] * 66]])
    context = model.text_encoder.forward(tokens, [], 1).context
    return model.evaluate(torch.randn(1, 4, 32, 32), torch.tensor([999.0]), context)
