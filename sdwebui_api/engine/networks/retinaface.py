"""RetinaFace on ResNet-50: the network whose weights are facexlib's `detection_Resnet50_Final.pth`.

Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild", 2019. Names of the modules are those in
the file.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (8, 16, 32)
ANCHORS = ((16, 32), (64, 128), (256, 512))
_CENTRE, _SIZE = 0.1, 0.2
_WIDTH = 256


class RetinaFace(nn.Module):
    """[B, 3, h, w] (BGR less the mean) -> offsets of boxes [B, n, 4], probabilities [B, n], offsets of landmarks
    [B, n, 10], one for each of `anchors`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _ResNet50()
        self.fpn = _Pyramid()
        self.ssh1, self.ssh2, self.ssh3 = _Context(), _Context(), _Context()
        self.ClassHead = nn.ModuleList(_Head(2) for _ in STRIDES)
        self.BboxHead = nn.ModuleList(_Head(4) for _ in STRIDES)
        self.LandmarkHead = nn.ModuleList(_Head(10) for _ in STRIDES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        levels = self.fpn(self.body(x))
        features = [context(level) for context, level in zip((self.ssh1, self.ssh2, self.ssh3), levels, strict=True)]

        def told(heads: nn.ModuleList) -> Tensor:
            return torch.cat([head(feature) for head, feature in zip(heads, features, strict=True)], dim=1)

        return told(self.BboxHead), told(self.ClassHead).softmax(-1)[..., 1], told(self.LandmarkHead)


def anchors(height: int, width: int) -> Tensor:
    """[n, 4]: centre x, y, width and height in pixels, in the order of the network's outputs."""
    rows = []
    for stride, sides in zip(STRIDES, ANCHORS, strict=True):
        y = (torch.arange(-(-height // stride)) + 0.5) * stride
        x = (torch.arange(-(-width // stride)) + 0.5) * stride
        centres = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).reshape(-1, 1, 2)
        sizes = torch.tensor(sides, dtype=torch.float32).reshape(1, -1, 1)
        rows.append(torch.cat(torch.broadcast_tensors(centres, sizes), dim=-1).reshape(-1, 4))
    return torch.cat(rows)


def decode(boxes: Tensor, landmarks: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Offsets to pixels: boxes [n, 4] (left, top, right, bottom) and landmarks [n, 5, 2]."""
    centres, sizes = anchors(height, width).split(2, dim=1)
    middle = centres + boxes[:, :2] * _CENTRE * sizes
    half = sizes * torch.exp(boxes[:, 2:] * _SIZE) / 2
    points = centres[:, None] + landmarks.reshape(-1, 5, 2) * _CENTRE * sizes[:, None]
    return torch.cat((middle - half, middle + half), dim=1), points


def _conv(inputs: int, outputs: int, side: int = 3, *, relu: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


class _Head(nn.Module):
    def __init__(self, values: int) -> None:
        super().__init__()
        self.values = values
        self.conv1x1 = nn.Conv2d(_WIDTH, 2 * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        told: Tensor = self.conv1x1(x)
        return told.permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values)


class _Context(nn.Module):
    """Three receptive fields side by side."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter = _WIDTH // 2, _WIDTH // 4
        self.conv3X3 = _conv(_WIDTH, half, relu=False)
        self.conv5X5_1 = _conv(_WIDTH, quarter)
        self.conv5X5_2 = _conv(quarter, quarter, relu=False)
        self.conv7X7_2 = _conv(quarter, quarter)
        self.conv7x7_3 = _conv(quarter, quarter, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        wider = self.conv5X5_1(x)
        return F.relu(torch.cat((self.conv3X3(x), self.conv5X5_2(wider), self.conv7x7_3(self.conv7X7_2(wider))), dim=1))


class _Pyramid(nn.Module):
    """What the deeper layers know, added to the finer ones."""

    def __init__(self) -> None:
        super().__init__()
        self.output1, self.output2, self.output3 = (_conv(width, _WIDTH, 1) for width in (512, 1024, 2048))
        self.merge1, self.merge2 = _conv(_WIDTH, _WIDTH), _conv(_WIDTH, _WIDTH)

    def forward(self, layers: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        fine, middle, coarse = self.output1(layers[0]), self.output2(layers[1]), self.output3(layers[2])
        middle = self.merge2(middle + F.interpolate(coarse, size=middle.shape[2:], mode="nearest"))
        fine = self.merge1(fine + F.interpolate(middle, size=fine.shape[2:], mode="nearest"))
        return fine, middle, coarse


class _ResNet50(nn.Module):
    """He et al., "Deep Residual Learning", 2015; the outputs of its last three stages."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, 3, 1)
        self.layer2 = _stage(256, 128, 4, 2)
        self.layer3 = _stage(512, 256, 6, 2)
        self.layer4 = _stage(1024, 512, 3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        second = self.layer2(self.layer1(x))
        third = self.layer3(second)
        return second, third, self.layer4(third)


def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    more = [_Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(_Bottleneck(inputs, width, stride), *more)


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))
