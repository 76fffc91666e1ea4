"""Preprocessors with networks: tiny ones with random weights, in files and folders as they are found in the wild."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdwebui_api.control.preprocessor import PreprocessorContext, PreprocessorResult
from sdwebui_api.control.preprocessors import depth, edges, segmentation
from sdwebui_api.control.preprocessors.depth import depth_map
from sdwebui_api.control.preprocessors.palette import ADE20K, COCO
from sdwebui_api.control.preprocessors.table import find_preprocessor
from sdwebui_api.engine.anime_lines import AnimeLines
from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.line_networks import Hed, LineDrawing
from sdwebui_api.engine.pidinet import PiDiNet, kind_of, plain_kernel
from sdwebui_api.errors import NotFound, UnusableModel

WITH_WEIGHTS = [one.name for one in (*edges.PREPROCESSORS, *depth.PREPROCESSORS, *segmentation.PREPROCESSORS)]


class LoadsAtOnce:
    """The engine's `auxiliary` without a cache."""

    def auxiliary(self, path: Path, load: Any, kind: Any, on_progress: Any = None, *, keep: bool = True) -> Any:
        plan = DevicePlan(torch.device("cpu"))
        part = load(path, plan, Device(plan))
        assert isinstance(part, kind)
        return nullcontext(part)


def run(name: str, folder: Path, image: np.ndarray) -> np.ndarray:
    context = PreprocessorContext((folder,), field="unit.module", models=LoadsAtOnce())
    result: PreprocessorResult = find_preprocessor(name).run(
        image, resolution=64, slider_1=0.5, slider_2=0.5, mask=None, context=context
    )
    return result.map


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (70, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("annotators")
    torch.manual_seed(0)
    for sub in ("hed", "lineart", "pidinet", "lineart_anime"):
        (tmp_path / sub).mkdir()
    torch.save(Hed([4, 4, 4, 4, 4]).state_dict(), tmp_path / "hed" / "ControlNetHED.pth")
    torch.save(pidinet_weights(4, 4), tmp_path / "pidinet" / "table5_pidinet.pth")
    anime = {f"module.{name}": value for name, value in AnimeLines([2, 2, 4, 4, 4, 4, 4, 4]).state_dict().items()}
    torch.save(anime, tmp_path / "lineart_anime" / "netG.pth")
    for name in ("sk_model.pth", "sk_model2.pth"):
        torch.save(LineDrawing(4, 3).state_dict(), tmp_path / "lineart" / name)
    make_depth_networks(tmp_path)
    make_segmentation_networks(tmp_path)
    return tmp_path


def pidinet_weights(width: int, seen_width: int) -> dict[str, Any]:
    """As in the authors' file: kernels of differences, 3x3 all of them, names as of DataParallel."""
    state = PiDiNet(width, seen_width).state_dict()
    small = {name: value[:, :, 1:4, 1:4].clone() if value.shape[-1] == 5 else value for name, value in state.items()}
    return {"state_dict": {f"module.{name}": value for name, value in small.items()}, "epoch": 1}


RASTER = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
CLOCKWISE = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]


def differences(x: torch.Tensor, weight: torch.Tensor, kind: str) -> float:
    """The paper's definition (figure 2) at the middle of a 5x5 picture: weights times differences of pixels."""
    if kind == "central":
        return sum(float(weight[1 + i, 1 + j] * (x[2 + i, 2 + j] - x[2, 2])) for i, j in RASTER)
    if kind == "radial":
        # In the authors' files the eight weights are the last eight of the kernel, row by row.
        weights = zip(weight.flatten()[1:], RASTER, strict=True)
        return sum(float(one * (x[2 + 2 * i, 2 + 2 * j] - x[2 + i, 2 + j])) for one, (i, j) in weights)
    pairs = zip(CLOCKWISE, [*CLOCKWISE[1:], CLOCKWISE[0]], strict=True)
    return sum(float(weight[1 + i, 1 + j] * (x[2 + i, 2 + j] - x[2 + k, 2 + m])) for (i, j), (k, m) in pairs)


@pytest.mark.parametrize("kind", ["central", "angular", "radial"])
def test_plain_kernels_weigh_differences(kind: str) -> None:
    torch.manual_seed(3)
    x, weight = torch.randn(5, 5), torch.randn(3, 3)
    kernel = plain_kernel(weight[None, None], kind)
    found = torch.nn.functional.conv2d(x[None, None], kernel, padding=kernel.shape[-1] // 2)[0, 0, 2, 2]
    assert float(found) == pytest.approx(differences(x, weight, kind), abs=1e-4)


def test_anime_lines_have_the_authors_names() -> None:
    names = AnimeLines([2, 2, 4, 4, 4, 4, 4, 4]).state_dict().keys()
    innermost = "model.model.1" + ".model.3" * 6
    assert {f"{innermost}.model.1.weight", f"{innermost}.model.3.weight", "model.model.3.bias"} <= names
    assert len(names) == 2 * 16


def test_kinds_take_turns() -> None:
    assert [kind_of(f"block{stage}_1.conv1") for stage in (1, 2, 3, 4)] == ["angular", "central", "central", "central"]
    assert kind_of("init_block") == "central" and kind_of("block1_2.conv1") == "radial"


def make_depth_networks(folder: Path) -> None:
    from transformers import (
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        Dinov2Config,
        DPTConfig,
        DPTForDepthEstimation,
    )

    dpt = DPTConfig(
        hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[4, 4, 4, 4], fusion_hidden_size=4, is_hybrid=False,
    )  # fmt: skip
    DPTForDepthEstimation(dpt).save_pretrained(folder / "midas")
    dino = Dinov2Config(
        hidden_size=8, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=1, image_size=28, patch_size=14,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    anything = DepthAnythingConfig(
        backbone_config=dino, patch_size=14, reassemble_hidden_size=8, neck_hidden_sizes=[4, 4, 4, 4],
        fusion_hidden_size=4, head_hidden_size=4,
    )  # fmt: skip
    for name in ("depth_anything", "depth_anything_v2"):
        DepthAnythingForDepthEstimation(anything).save_pretrained(folder / name)
        (folder / name / "preprocessor_config.json").write_text(
            '{"size": {"height": 56, "width": 56}, "ensure_multiple_of": 14, "image_mean": [0.4, 0.4, 0.4]}'
        )


def make_segmentation_networks(folder: Path) -> None:
    from transformers import (
        ConvNextConfig,
        OneFormerConfig,
        OneFormerForUniversalSegmentation,
        SwinConfig,
        UperNetConfig,
        UperNetForSemanticSegmentation,
    )

    convnext = ConvNextConfig(
        hidden_sizes=[4, 4, 4, 4], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    upernet = UperNetConfig(
        backbone_config=convnext, hidden_size=8, pool_scales=[1, 2], num_labels=5, auxiliary_channels=4,
        auxiliary_in_channels=4,
    )  # fmt: skip
    UperNetForSemanticSegmentation(upernet).save_pretrained(folder / "upernet")
    swin = SwinConfig(
        embed_dim=4, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    oneformer = OneFormerConfig(
        backbone_config=swin, num_labels=5, num_queries=4, hidden_dim=32, conv_dim=32, mask_dim=32,
        encoder_feedforward_dim=16, dim_feedforward=16, num_attention_heads=2, encoder_layers=1, decoder_layers=2,
        is_training=False, task_seq_len=8, text_encoder_width=16, text_encoder_num_layers=1, text_encoder_vocab_size=32,
        text_encoder_context_length=8, query_dec_layers=1, strides=[4, 8, 16, 32],
    )  # fmt: skip
    words = ["a</w>", "the</w>", "<|startoftext|>", "<|endoftext|>"]
    for name in ("oneformer_ade20k", "oneformer_coco"):
        OneFormerForUniversalSegmentation(oneformer).save_pretrained(folder / name)
        (folder / name / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
        (folder / name / "merges.txt").write_text("#version: 0.2\n")


@pytest.mark.parametrize(
    ("name", "palette"), [("oneformer_ade20k", ADE20K), ("segmentation", ADE20K), ("oneformer_coco", COCO)]
)
def test_segments_have_the_colours_of_their_classes(
    name: str, palette: np.ndarray, folder: Path, image: np.ndarray
) -> None:
    found = run(name, folder, image)
    assert found.shape == (64, 88, 3) and np.array_equal(found, run(name, folder, image))
    assert {tuple(colour) for colour in found.reshape(-1, 3)} <= {tuple(colour) for colour in palette[:5]}


def test_the_palettes() -> None:
    assert ADE20K.shape == (150, 3) and COCO.shape == (133, 3)
    assert tuple(ADE20K[12]) == (150, 5, 61) and tuple(COCO[0]) == (220, 20, 60)  # person
    assert len({tuple(colour) for colour in COCO}) == 133
    assert not segmentation.painted(np.array([[150]])).any()


@pytest.mark.parametrize(
    "name", [one.name for one in (*edges.PREPROCESSORS, *depth.PREPROCESSORS) if one.name != "depth_zoe"]
)
def test_maps_have_the_pictures_shape(name: str, folder: Path, image: np.ndarray) -> None:
    found = run(name, folder, image)
    assert found.shape == (64, 88, 3) and found.dtype == np.uint8
    assert (found[:, :, 0] == found[:, :, 1]).all()
    assert np.array_equal(found, run(name, folder, image))


@pytest.mark.parametrize("name", ["depth_anything", "segmentation"])
def test_long_pictures_stay_affordable(name: str, folder: Path) -> None:
    image = np.zeros((2, 200, 3), dtype=np.uint8)
    assert run(name, folder, image).shape == (64, 6400, 3)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_missing_weights_name_file_and_folder(name: str, tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(NotFound) as refused:
        run(name, tmp_path, image)
    assert refused.value.status == 404 and refused.value.field == "unit.module"
    assert str(tmp_path) in refused.value.message
    assert any(word in refused.value.message for word in (".pth", ".pt ", "config.json"))


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_broken_weights(content: bytes, tmp_path: Path, image: np.ndarray) -> None:
    (tmp_path / "hed").mkdir()
    (tmp_path / "hed" / "ControlNetHED.pth").write_bytes(content)
    with pytest.raises(UnusableModel):
        run("hed", tmp_path, image)


def test_other_weights_are_no_edge_network(tmp_path: Path, image: np.ndarray) -> None:
    (tmp_path / "hed").mkdir()
    torch.save({"some.weight": torch.zeros(3)}, tmp_path / "hed" / "ControlNetHED.pth")
    with pytest.raises(UnusableModel):
        run("hed", tmp_path, image)


def test_hed_safe_has_three_tones(folder: Path, image: np.ndarray) -> None:
    assert set(np.unique(run("hed_safe", folder, image))) <= {0, 127, 255}


def test_scribbles_are_black_and_white(folder: Path, image: np.ndarray) -> None:
    assert set(np.unique(run("scribble_hed", folder, image))) <= {0, 255}


def test_near_is_white() -> None:
    far_to_near = np.linspace(1, 5, 100, dtype=np.float32)[None].repeat(4, axis=0)
    inverse, metric = depth_map(far_to_near, metric=False), depth_map(far_to_near, metric=True)
    assert inverse[0, 0] == 0 and inverse[0, -1] == 255
    assert metric[0, 0] == 255 and metric[0, -1] == 0
    assert not depth_map(np.zeros((2, 2), dtype=np.float32), metric=False).any()
