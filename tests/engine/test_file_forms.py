"""Checkpoint files in unusual forms: loaded right, or refused with words that say what is wrong; never loaded wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.make_checkpoint import layout_of, unet_weights, write_checkpoint
from sdwebui_api.engine.filling import Weights
from sdwebui_api.engine.ldm_names import ema_to_ldm
from sdwebui_api.engine.loading import OpenCheckpoint
from sdwebui_api.engine.original_names import UNET_PREFIX, original_names
from sdwebui_api.errors import UnusableModel

Tensors = dict[str, Tensor]
Change = Callable[[Tensors], Tensors]

FP32 = Weights(torch.float32, torch.device("cpu"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensors]:
    folder = tmp_path_factory.mktemp("families")
    return {
        family: load_file(str(write_checkpoint(folder / f"{family}.safetensors", family, torch.float16, "small")))
        for family in ("sd1", "sdxl")
    }


def opened(folder: Path, tensors: Tensors) -> OpenCheckpoint:
    path = folder / "file.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(path))
    return OpenCheckpoint(path, None)


def unet(folder: Path, tensors: Tensors, weights: Weights = FP32) -> Tensors:
    module: nn.Module = opened(folder, tensors).load_unet(weights)
    return module.state_dict()


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def renamed(start: str, prefix: str) -> Change:
    return lambda tensors: {prefix + name if name.startswith(start) else name: t for name, t in tensors.items()}


def ema_only(tensors: Tensors) -> Tensors:
    def name_of(name: str) -> str:
        return f"model_ema.{name.removeprefix('model.').replace('.', '')}" if name.startswith(UNET_PREFIX) else name

    return {name_of(name): tensor for name, tensor in tensors.items()} | {"model_ema.decay": torch.tensor(0.99)}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize(
    "change",
    [
        ema_only,
        lambda tensors: renamed("", "state_dict.")(ema_only(tensors)),
        renamed("", "state_dict."),
        renamed("", "module."),
        renamed("model.", "model."),
        lambda tensors: {name: tensor.double() for name, tensor in tensors.items()},
    ],
    ids=["ema only", "nested ema", "state_dict", "module", "model twice", "float64"],
)
def test_other_names_and_precisions_give_the_same_model(
    files: dict[str, Tensors], family: str, change: Change, tmp_path: Path
) -> None:
    assert same(unet(tmp_path, change(files[family])), unet(tmp_path, files[family]))


def test_ema_names_of_sdxl_are_recovered_completely() -> None:
    for name in unet_weights(layout_of("sdxl", 1.0)):
        assert ema_to_ldm(name.replace(".", "")) == name


def test_names_that_need_nothing_stay() -> None:
    names = ("model.diffusion_model.out.2.bias", "first_stage_model.quant_conv.bias", "model_ema.decay", "v_pred")
    assert list(original_names({name: torch.zeros(0) for name in names})) == list(names)


# -- weights with scales ---------------------------------------------------------------------------------------------


def scaled(tensors: Tensors, leaf: str, per_row: bool = False) -> tuple[Tensors, Tensors]:
    """The file with float8 matrices in the UNet and their scales, and what they stand for, by full names."""
    found, meant = dict(tensors), {}
    for name, tensor in tensors.items():
        if not name.startswith(UNET_PREFIX) or tensor.ndim != 2:
            continue
        values = tensor.float()
        most = values.abs().amax(dim=1, keepdim=True) if per_row else values.abs().amax()
        scale = most / 448
        found[name] = (values / scale).to(torch.float8_e4m3fn)
        meant[name] = found[name].float() * scale
        found[f"{name.removesuffix('weight')}{leaf}"] = scale
    return found | {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}, {**tensors, **meant}


@pytest.mark.parametrize(
    ("leaf", "per_row"), [("scale_weight", False), ("weight_scale", False), ("weight_scale", True)]
)
def test_scales_are_multiplied_in(files: dict[str, Tensors], leaf: str, per_row: bool, tmp_path: Path) -> None:
    found, meant = scaled(files["sdxl"], leaf, per_row)
    assert same(unet(tmp_path, found), unet(tmp_path, meant))


@pytest.mark.parametrize("keep_half", [False, True])
def test_scales_are_multiplied_in_when_float8_is_kept(
    files: dict[str, Tensors], keep_half: bool, tmp_path: Path
) -> None:
    found, meant = scaled(files["sd1"], "scale_weight")
    weights = Weights(torch.float32, torch.device("cpu"), float8=True, keep_half=keep_half)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    layers = [opened(tmp_path, tensors).load_unet(weights).get_submodule(name) for tensors in (found, meant)]
    assert torch.equal(layers[0].weight.float(), layers[1].weight.float())
    if keep_half:
        assert torch.equal(layers[0].half_weight.tensor, layers[1].half_weight.tensor)


def test_scales_of_blocks_are_refused(files: dict[str, Tensors], tmp_path: Path) -> None:
    layer = f"{UNET_PREFIX}middle_block.1.transformer_blocks.0.attn1.to_q"
    found = files["sd1"] | {f"{layer}.weight_scale": torch.ones(2, 2)}
    with pytest.raises(UnusableModel, match=r"attn1\.to_q\.weight' has a scale of \[2, 2\]"):
        unet(tmp_path, found)


def test_whole_numbers_are_no_weights(files: dict[str, Tensors], tmp_path: Path) -> None:
    name = f"{UNET_PREFIX}out.2.weight"
    found = files["sd1"] | {name: (files["sd1"][name] * 100).to(torch.int8)}
    with pytest.raises(UnusableModel, match=r"file\.safetensors: tensor 'conv_out\.weight' of the UNet is int8"):
        unet(tmp_path, found)


# -- parts of checkpoints --------------------------------------------------------------------------------------------


def only(*starts: str) -> Change:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name.startswith(starts)}


def bare_unet(tensors: Tensors) -> Tensors:
    return {name.removeprefix(UNET_PREFIX): tensor for name, tensor in only(UNET_PREFIX)(tensors).items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (bare_unet, "a UNet alone, without text encoder and VAE"),
        (lambda tensors: {"down_blocks.0.resnets.0.conv1.weight": torch.zeros(1)}, "the UNet of a diffusers folder"),
        (only("first_stage_model."), "a VAE: it belongs into the folder VAE"),
        (only("cond_stage_model."), "a text encoder alone"),
    ],
    ids=["unet", "diffusers unet", "vae", "text encoder"],
)
def test_a_part_alone_is_told_so(files: dict[str, Tensors], change: Change, words: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match=f"file.safetensors: this is {words}"):
        opened(tmp_path, change(files["sd1"]))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_missing_part_is_named_when_it_is_needed(files: dict[str, Tensors], family: str, tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, only(UNET_PREFIX)(files[family]))
    assert checkpoint.family.name == family
    with pytest.raises(UnusableModel, match="no text encoder"):
        checkpoint.load_text_encoder(FP32)
    with pytest.raises(UnusableModel, match="no VAE"):
        checkpoint.load_vae(FP32)


@pytest.mark.parametrize(("number", "name"), [(0, "CLIP-L"), (1, "OpenCLIP-bigG")])
def test_either_of_sdxls_text_models_may_be_missing(
    files: dict[str, Tensors], number: int, name: str, tmp_path: Path
) -> None:
    found = {key: t for key, t in files["sdxl"].items() if not key.startswith(f"conditioner.embedders.{number}.")}
    with pytest.raises(UnusableModel, match=f"file.safetensors: the text model {name} is missing"):
        opened(tmp_path, found).load_text_encoder(FP32)


# -- headers that lie ------------------------------------------------------------------------------------------------


def written(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**6) + b"{}",
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        written({"a": entry([4], 0, 10**15)}, bytes(16)),
        written({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, bytes(24)),
        written({"a": entry([4], 16, 32)}, bytes(32)),
        written({"a": entry([2**62, 2**62], 0, 16)}, bytes(16)),
        written({"a": entry([-4], 0, 16)}, bytes(16)),
        written({"a": entry([5], 0, 16)}, bytes(16)),
        written({"a": entry([4], 0, 16, "F99")}, bytes(16)),
        written({"a": 7}, bytes(16)),
        written({"a": entry([4], 0, 16)}, bytes(12)),
    ],
    ids=[
        "length of 2^63", "length beyond the file", "depth", "offset beyond the file", "overlapping", "a gap",
        "absurd shape", "negative shape", "shape of another size", "dtype", "no entry", "truncated",
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "lie.safetensors"
    path.write_bytes(content)
    with pytest.raises(UnusableModel, match=r"lie\.safetensors is not a readable safetensors file"):
        OpenCheckpoint(path, None)
