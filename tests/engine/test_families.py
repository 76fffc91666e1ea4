"""Which family a file is taken for, and what is found out about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.make_checkpoint import write_checkpoint
from sdwebui_api.config.paths import Paths
from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.filling import Weights
from sdwebui_api.engine.loading import OpenCheckpoint
from sdwebui_api.errors import UnusableModel
from tests.engine.conftest import checkpoints, flags_of

FP32 = Weights(torch.float32, torch.device("cpu"))
OUTPUT = "model.diffusion_model.out.2.bias"
INPUT = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture(scope="module")
def sd2(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    path = tmp_path_factory.mktemp("sd2") / "sd2.safetensors"
    return load_file(write_checkpoint(path, "sd2", torch.float32, "small", metadata={}))


def found_prediction(folder: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """By the engine, of a file without a yaml."""
    (folder / "Stable-diffusion").mkdir(parents=True)
    save_file(tensors, folder / "Stable-diffusion" / "model.safetensors", metadata)
    flags = flags_of(folder)
    paths = Paths.from_flags(flags)
    with Engine(flags, paths).lease(checkpoints(paths)[0]) as model:
        assert model.family.name == "sd2"
        return model.prediction_type


def test_sd2_is_asked_what_it_predicts(sd2, tmp_path):
    """A model that answers far below its constant input predicts velocity, unless the file says what it does."""
    below = sd2 | {OUTPUT: sd2[OUTPUT] - 5.0}
    assert found_prediction(tmp_path / "plain", sd2) == "epsilon"
    assert found_prediction(tmp_path / "below", below) == "v_prediction"
    assert found_prediction(tmp_path / "stated", below, {"modelspec.prediction_type": "epsilon"}) == "epsilon"
    architecture = {"modelspec.architecture": "stable-diffusion-v2-768-v"}
    assert found_prediction(tmp_path / "architecture", sd2, architecture) == "v_prediction"


def test_the_text_encoder_ends_where_its_last_layer_is_not_used(sd2, tmp_path):
    """Files made of diffusers models say nothing about the layer that they lack but their width."""
    save_file(sd2, tmp_path / "model.safetensors")
    text = OpenCheckpoint(tmp_path / "model.safetensors", None).load_text_encoder(FP32)
    assert text.config.num_hidden_layers == 2 and text.config.hidden_act == "gelu"
    assert torch.equal(text.embeddings.token_embedding.weight, sd2["cond_stage_model.model.token_embedding.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_narrow_files_load(sd2, dtype, tmp_path):
    narrow = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in sd2.items()}
    save_file(narrow, tmp_path / "model.safetensors")
    unet = OpenCheckpoint(tmp_path / "model.safetensors", None).load_unet(FP32)
    stored = narrow[INPUT].float()
    assert torch.equal(unet.conv_in.weight, stored) and not torch.equal(stored, sd2[INPUT])


def with_input(channels: int) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: tensors | {INPUT: torch.zeros(64, channels, 3, 3)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_input(5), "depth-to-image"),
        (lambda tensors: tensors | {"depth_model.model.weight": torch.zeros(1)}, "depth-to-image"),
        (lambda tensors: tensors | {"embedder.model.visual.proj": torch.zeros(1)}, "unCLIP"),
        (lambda tensors: tensors | {"edm_mean": torch.zeros(1)}, "Playground 2.5"),
        (with_input(7), "upscaler"),
        (with_input(6), "6 input channels"),
        (lambda tensors: {"model.diffusion_model.joint_blocks.0.x": torch.zeros(1)}, "Stable Diffusion 3"),
        (lambda tensors: {"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}, "FLUX"),
        (lambda tensors: {"lora_unet_mid_block_x.lora_up.weight": torch.zeros(1)}, "a LoRA: it belongs into"),
        (lambda tensors: {"weight": torch.zeros(1)}, "not a checkpoint of a supported family"),
    ],
)
def test_what_cannot_be_used_is_named(sd2, change, words, tmp_path):
    save_file(change(sd2), tmp_path / "model.safetensors")
    with pytest.raises(UnusableModel, match=words) as raised:
        OpenCheckpoint(tmp_path / "model.safetensors", None).load_unet(FP32)
    assert raised.value.message.startswith("model.safetensors: ") and raised.value.status == 422
