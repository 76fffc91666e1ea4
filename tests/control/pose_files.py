"""Weights of preprocessors for people, as they are found in the wild but small: random ones under the original names,
and ONNX files that find what the tests put into pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tests.support.onnx_files import OnnxFile

VGG = {
    "conv1_1": 1, "conv1_2": 1, "conv2_1": 2, "conv2_2": 2, "conv3_1": 2, "conv3_2": 2, "conv3_3": 2, "conv3_4": 2,
    "conv4_1": 3, "conv4_2": 3,
}  # fmt: skip
"""Name to width, in units of the first."""


def layers(widths: Sequence[tuple[str, int, int, int]]) -> dict[str, torch.Tensor]:
    """(name, inputs, outputs, side of the kernel) → weights and biases."""
    found = {}
    for name, inputs, outputs, side in widths:
        found[f"{name}.weight"] = torch.randn(outputs, inputs, side, side) * (2 / (inputs * side * side)) ** 0.5
        found[f"{name}.bias"] = torch.randn(outputs) * 0.05
    return found


def trunk(unit: int, last: Sequence[tuple[str, int]]) -> tuple[list[tuple[str, int, int, int]], int]:
    rows, before = [], 3
    for name, width in [*((name, unit * width) for name, width in VGG.items()), *last]:
        rows.append((name, before, width, 3))
        before = width
    return rows, before


def body_weights(unit: int = 4) -> dict[str, torch.Tensor]:
    """As `body_pose_model.pth`."""
    rows, seen = trunk(unit, [("conv4_3_CPM", unit), ("conv4_4_CPM", unit)])
    for branch, maps in ((1, 38), (2, 19)):
        rows += [(f"conv5_{number}_CPM_L{branch}", seen, seen, 3) for number in (1, 2, 3)]
        rows += [(f"conv5_4_CPM_L{branch}", seen, unit, 1), (f"conv5_5_CPM_L{branch}", unit, maps, 1)]
        for stage in range(2, 7):
            rows += refinement(stage, f"_L{branch}", seen + 38 + 19, unit, maps)
    return layers(rows)


def part_weights(maps: int, unit: int = 4) -> dict[str, torch.Tensor]:
    """As `hand_pose_model.pth` (22 maps) and `facenet.pth` (71)."""
    last = [(name, unit) for name in ("conv4_3", "conv4_4", "conv5_1", "conv5_2", "conv5_3_CPM")]
    rows, seen = trunk(unit, last)
    rows += [("conv6_1_CPM", seen, unit, 1), ("conv6_2_CPM", unit, maps, 1)]
    for stage in range(2, 7):
        rows += refinement(stage, "", seen + maps, unit, maps)
    return layers(rows)


def refinement(stage: int, suffix: str, inputs: int, unit: int, maps: int) -> list[tuple[str, int, int, int]]:
    rows = [(f"Mconv{number}_stage{stage}{suffix}", inputs if number == 1 else unit, unit, 7) for number in range(1, 6)]
    rows.append((f"Mconv6_stage{stage}{suffix}", unit, unit, 1))
    return [*rows, (f"Mconv7_stage{stage}{suffix}", unit, maps, 1)]


def write_openpose(folder: Path) -> None:
    torch.manual_seed(0)
    (folder / "openpose").mkdir(parents=True, exist_ok=True)
    torch.save(body_weights(), folder / "openpose" / "body_pose_model.pth")
    torch.save(part_weights(22), folder / "openpose" / "hand_pose_model.pth")
    torch.save(part_weights(71), folder / "openpose" / "facenet.pth")


def write_detector(path: Path, kinds: Sequence[int] = (0,), box: tuple[float, float] = (64.0, 128.0)) -> None:
    """YOLOX for 640x640: every white block of 8x8 pixels is the middle of a box of the given size."""
    file = OnnxFile(1, 3, 640, 640)
    shape = file.constant("shape", np.array([1, 85, -1], dtype=np.int64))
    flat = []
    for stride in (8, 16, 32):
        weight, bias = np.zeros((85, 3, stride, stride)), np.zeros(85)
        if stride == 8:
            weight[4], bias[4] = 2.5 / (3 * 64 * 255), -1.5  # the grey around pictures is none
            bias[:2], bias[2:4] = 0.5, np.log(np.array(box) / 8)
            bias[[5 + kind for kind in kinds]] = 1.0
        names = file.constant(f"w{stride}", weight), file.constant(f"b{stride}", bias)
        sides = [stride, stride]
        cells = file.node("Conv", ["input", *names], f"c{stride}", kernel_shape=sides, strides=sides)
        flat.append(file.node("Reshape", [cells, shape], f"r{stride}"))
    file.node("Concat", flat, "all", axis=2)
    file.node("Transpose", ["all"], "output", perm=[0, 2, 1])
    file.output("output", 1, 8400, 85)
    file.write(path)


def write_points(path: Path, places: np.ndarray, scores: np.ndarray, size: tuple[int, int]) -> None:
    """RTMPose that always answers `places` `[n, 2]` (shares of the crop) with `scores` `[n]`."""
    width, height = size
    file = OnnxFile("batch", 3, height, width)
    for axis, (name, side) in enumerate((("simcc_x", 2 * width), ("simcc_y", 2 * height))):
        told = np.zeros((1, len(places), side))
        told[0, np.arange(len(places)), np.rint(places[:, axis] * side).astype(int)] = scores
        file.node("Identity", [file.constant(f"of_{name}", told)], name)
        file.output(name, 1, len(places), side)
    file.write(path)


def write_face_detector(
    path: Path, landmarks: np.ndarray, reach: float = 40.0, sides: tuple[int, int] | None = None
) -> None:
    """SCRFD: every white block of 8x8 pixels is a face around the block's corner, `reach` pixels to every side, with
    `landmarks` `[5, 2]` relative to the corner. sides: of its input; None: any."""
    file = OnnxFile(1, 3, *(sides or ("h", "w")))
    told: dict[str, list[str]] = {"score": [], "bbox": [], "kps": []}
    for stride in (8, 16, 32):
        for kind, length in (("score", 1), ("bbox", 4), ("kps", 10)):
            weight, bias = np.zeros((2 * length, 3, stride, stride)), np.zeros(2 * length)
            if kind == "score" and stride == 8:
                weight[0] = 1 / (3 * 64)  # the second anchor of each cell sees nothing
            bias += {"score": 0.0, "bbox": reach / stride, "kps": np.tile(landmarks.flatten(), 2) / stride}[kind]
            name = f"{kind}_{stride}"
            given = file.constant(f"w_{name}", weight), file.constant(f"b_{name}", bias)
            window = [stride, stride]
            cells = file.node("Conv", ["input", *given], f"c_{name}", kernel_shape=window, strides=window)
            turned = file.node("Transpose", [cells], f"t_{name}", perm=[0, 2, 3, 1])
            shape = file.constant(f"s_{name}", np.array([-1, length], dtype=np.int64))
            told[kind].append(file.node("Reshape", [turned, shape], name))
    for kind, length in (("score", 1), ("bbox", 4), ("kps", 10)):
        for name in told[kind]:
            file.output(name, f"n_{name}", length)
    file.write(path)


def write_recogniser(path: Path) -> None:
    """ArcFace with one random layer: 512 numbers that depend on all of the 112x112 crop, seen coarsely."""
    file = OnnxFile("n", 3, 112, 112)
    coarse = file.node("AveragePool", ["input"], "a", kernel_shape=[8, 8], strides=[8, 8])
    weight = np.random.default_rng(7).normal(size=(512, 3, 14, 14), scale=1 / 24)
    cells = file.node("Conv", [coarse, file.constant("w", weight)], "c", kernel_shape=[14, 14])
    file.node("Flatten", [cells], "output", axis=1)
    file.output("output", "n", 512)
    file.write(path)


def parsing_weights(width: int = 4, classes: int = 19) -> dict[str, torch.Tensor]:
    """As `parsing_bisenet.pth`."""
    found: dict[str, torch.Tensor] = {}

    def conv(name: str, inputs: int, outputs: int, side: int) -> None:
        found[f"{name}.weight"] = torch.randn(outputs, inputs, side, side) * (2 / (inputs * side * side)) ** 0.5

    def norm(name: str, channels: int) -> None:
        for part, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            found[f"{name}.{part}"] = torch.full((channels,), value)
        found[f"{name}.num_batches_tracked"] = torch.tensor(1)

    def both(name: str, inputs: int, outputs: int, side: int) -> None:
        conv(f"{name}.conv", inputs, outputs, side)
        norm(f"{name}.bn", outputs)

    conv("cp.resnet.conv1", 3, width, 7)
    norm("cp.resnet.bn1", width)
    before = width
    for stage, outputs in enumerate((width, width * 2, width * 4, width * 8), 1):
        for block in (0, 1):
            name = f"cp.resnet.layer{stage}.{block}"
            conv(f"{name}.conv1", before, outputs, 3)
            norm(f"{name}.bn1", outputs)
            conv(f"{name}.conv2", outputs, outputs, 3)
            norm(f"{name}.bn2", outputs)
            if before != outputs:
                conv(f"{name}.downsample.0", before, outputs, 1)
                norm(f"{name}.downsample.1", outputs)
            before = outputs
    for name, inputs in (("cp.arm16", width * 4), ("cp.arm32", width * 8)):
        both(f"{name}.conv", inputs, width * 2, 3)
        conv(f"{name}.conv_atten", width * 2, width * 2, 1)
        norm(f"{name}.bn_atten", width * 2)
    both("cp.conv_head32", width * 2, width * 2, 3)
    both("cp.conv_head16", width * 2, width * 2, 3)
    both("cp.conv_avg", width * 8, width * 2, 1)
    both("ffm.convblk", width * 4, width * 4, 1)
    conv("ffm.conv1", width * 4, width, 1)
    conv("ffm.conv2", width, width * 4, 1)
    for name, inputs, inner in (("conv_out", 4, 4), ("conv_out16", 2, 1), ("conv_out32", 2, 1)):
        both(f"{name}.conv", width * inputs, width * inner, 3)
        conv(f"{name}.conv_out", width * inner, classes, 1)
    return found
