"""BiSeNet (Yu et al. 2018, arXiv 1808.00897) for the 19 parts of a face, under the names of facexlib's
`parsing_bisenet.pth`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sdwebui_api.engine.annotators.network import PictureNetwork, load_picture_network
from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.reading import Tensors

SIDE = 512
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _ConvNorm(nn.Module):
    def __init__(self, width_in: int, width: int, side: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, side, padding=side // 2, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.bn(self.conv(x)).relu()
        return found


class _Residual(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or width_in != width:
            shortcut = nn.Conv2d(width_in, width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (found + (x if self.downsample is None else self.downsample(x))).relu()


class _ResNet18(nn.Module):
    """Its last three stages' outputs, at an 8th, a 16th and a 32nd of the size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for stage, (before, factor) in enumerate(((1, 1), (1, 2), (2, 4), (4, 8)), 1):
            blocks = (
                _Residual(width * before, width * factor, min(stage, 2)),
                _Residual(width * factor, width * factor, 1),
            )
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, stride=2, padding=1)
        found = []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            found.append(x)
        return found[1:]


class _Attention(nn.Module):
    """Weighs channels by what is in the whole picture."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv = _ConvNorm(width_in, width)
        self.conv_atten = nn.Conv2d(width, width, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        weights: Tensor = self.bn_atten(self.conv_atten(x.mean((2, 3), keepdim=True))).sigmoid()
        return x * weights


class _Context(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.resnet = _ResNet18(width)
        self.arm16, self.arm32 = _Attention(width * 4, width * 2), _Attention(width * 8, width * 2)
        self.conv_head32, self.conv_head16 = _ConvNorm(width * 2, width * 2), _ConvNorm(width * 2, width * 2)
        self.conv_avg = _ConvNorm(width * 8, width * 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine, middle, coarse = self.resnet(x)
        whole = self.conv_avg(coarse.mean((2, 3), keepdim=True))
        coarse = self.conv_head32(_as_large(self.arm32(coarse) + whole, middle))
        return fine, self.conv_head16(_as_large(self.arm16(middle) + coarse, fine))


class _Fusion(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.convblk = _ConvNorm(width, width, 1)
        self.conv1 = nn.Conv2d(width, width // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(width // 4, width, 1, bias=False)

    def forward(self, fine: Tensor, context: Tensor) -> Tensor:
        x = self.convblk(torch.cat([fine, context], 1))
        weights: Tensor = self.conv2(self.conv1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return x * weights + x


class _Output(nn.Module):
    def __init__(self, width_in: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv = _ConvNorm(width_in, width)
        self.conv_out = nn.Conv2d(width, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv_out(self.conv(x))
        return found


def _as_large(x: Tensor, other: Tensor) -> Tensor:
    return nn.functional.interpolate(x, other.shape[2:], mode="nearest")


class FaceParsing(nn.Module):
    """`[1, 3, H, W]` RGB in [0, 255] → `[H, W]`: the part of the face at each pixel, 0 to 18."""

    def __init__(self, width: int, classes: int) -> None:
        """width: of the first layer (64)."""
        super().__init__()
        self.cp = _Context(width)
        self.ffm = _Fusion(width * 4)
        self.conv_out = _Output(width * 4, width * 4, classes)
        # Of training only, but in the file.
        self.conv_out16, self.conv_out32 = _Output(width * 2, width, classes), _Output(width * 2, width, classes)

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(values, device=x.device)[:, None, None] for values in (MEAN, STD))
        scores = self.conv_out(self.ffm(*self.cp((x / 255.0 - mean) / std)))
        scores = nn.functional.interpolate(scores, x.shape[2:], mode="bilinear", align_corners=True)
        return scores[0].argmax(0)


def load_face_parsing(path: Path, plan: DevicePlan, device: Device) -> PictureNetwork:
    """Raises UnusableModel."""
    return load_picture_network(path, plan, device, build=_build, what="parsing network of facexlib")


def _build(tensors: Tensors) -> FaceParsing:
    return FaceParsing(len(tensors["cp.resnet.conv1.weight"]), len(tensors["conv_out.conv_out.weight"]))
