"""Folders as diffusers itself saves them must load as the single file does that they were made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from benchmarks.make_checkpoint import write_checkpoint
from sdwebui_api.engine.filling import Weights
from sdwebui_api.engine.loading import OpenCheckpoint
from sdwebui_api.errors import UnusableModel

FP32 = Weights(torch.float32, torch.device("cpu"))


def saved_folder(opened: OpenCheckpoint, folder: Path, **saving: Any) -> Path:
    """What diffusers' and transformers' own `save_pretrained` write of a checkpoint's parts."""
    opened.load_unet(FP32).save_pretrained(folder / "unet", **saving)
    opened.load_vae(FP32).save_pretrained(folder / "vae", **saving)
    text = opened.load_text_encoder(FP32)
    for part, module in _text_parts(text).items():
        module.save_pretrained(folder / part, **saving)
    prediction = opened.facts().prediction_type
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, prediction_type=prediction).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


def _text_parts(text: Any) -> dict[str, Any]:
    return {"text_encoder": text}


def states(opened: OpenCheckpoint) -> dict[str, dict[str, torch.Tensor]]:
    parts = {"unet": opened.load_unet(FP32), "text": opened.load_text_encoder(FP32), "vae": opened.load_vae(FP32)}
    return {name: dict(module.state_dict()) for name, module in parts.items()}


@pytest.mark.parametrize(
    ("family", "saving"),
    [
        ("sd1", {"max_shard_size": "4MB"}),
        ("sd1-edit", {}),
        ("sd2-v", {"variant": "fp16"}),
    ],
)
def test_a_folder_equals_the_file(family, saving, tmp_path):
    write_checkpoint(tmp_path / "file.safetensors", family, torch.float32, "small")
    single = OpenCheckpoint(tmp_path / "file.safetensors", None, {"modelspec.prediction_type": "v"})
    opened = OpenCheckpoint(saved_folder(single, tmp_path / "folder", **saving), None)
    assert opened.family is single.family
    assert opened.facts().prediction_type == "v_prediction"
    assert torch.equal(opened.facts().alphas_cumprod, single.facts().alphas_cumprod)
    ours, theirs = states(opened), states(single)
    for part, tensors in theirs.items():
        assert ours[part].keys() == tensors.keys()
        assert all(torch.equal(ours[part][name], tensor) for name, tensor in tensors.items()), part
    assert opened.load_unet(FP32).config.attention_head_dim == single.load_unet(FP32).config.attention_head_dim


def test_what_a_folder_lacks_is_named(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(UnusableModel, match=r"FluxPipeline is not supported"):
        OpenCheckpoint(tmp_path, None)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "U"]}')
    with pytest.raises(UnusableModel, match=r"unet/config\.json is missing"):
        OpenCheckpoint(tmp_path, None)
    (tmp_path / "unet" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").touch()
    with pytest.raises(UnusableModel, match=r"unet has no diffusion_pytorch_model\.safetensors"):
        OpenCheckpoint(tmp_path, None)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(bytes(100))
    with pytest.raises(UnusableModel, match=r"diffusion_pytorch_model\.safetensors is not a readable safetensors file"):
        OpenCheckpoint(tmp_path, None)


def test_a_folder_without_vae_takes_another(tmp_path):
    write_checkpoint(tmp_path / "file.safetensors", "sd1", torch.float32, "small")
    folder = saved_folder(OpenCheckpoint(tmp_path / "file.safetensors", None), tmp_path / "folder")
    shutil.rmtree(folder / "vae")
    opened = OpenCheckpoint(folder, None)
    assert opened.load_unet(FP32).config.in_channels == 4
    with pytest.raises(UnusableModel, match=r"folder has no VAE inside"):
        opened.load_vae(FP32)
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "EDMEulerScheduler"}')
    with pytest.raises(UnusableModel, match=r"EDM's preconditioning"):
        OpenCheckpoint(folder, None)
