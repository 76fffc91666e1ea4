"""PiDiNet: edges from pixel differences (Su et al. 2021, arXiv 2108.07009), in its largest form.

Its convolutions weigh differences between neighbours rather than pixels. Each kind equals a plain convolution with
other weights, which is what is run here; the weights are rewritten once, when they are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

STAGES = (3, 4, 4, 4)
"""Blocks of each stage, before the first of which stands one more convolution."""
KINDS = ("central", "angular", "radial", "plain")
"""Of the convolutions, in turn."""
DILATIONS = (5, 7, 9, 11)

_CLOCKWISE = (3, 0, 1, 6, 4, 2, 7, 8, 5)
"""Each place of a 3x3 kernel → the next one around the centre."""
_OUTER_RING = (0, 2, 4, 10, 14, 20, 22, 24)
_INNER_RING = (6, 7, 8, 11, 13, 16, 17, 18)
"""Places of a 5x5 kernel that stand in one line with the centre."""


def plain_kernel(weight: Tensor, kind: str) -> Tensor:
    """`[out, in, 3, 3]` of differences → the plain kernel, `[out, in, 3, 3]` or (radial) `[out, in, 5, 5]`."""
    flat = weight.flatten(2)
    if kind == "central":
        flat = flat.clone()
        flat[:, :, 4] -= weight.sum((2, 3))
    elif kind == "angular":
        flat = flat - flat[:, :, list(_CLOCKWISE)]
    elif kind == "radial":
        wide = flat.new_zeros(*flat.shape[:2], 25)
        wide[:, :, list(_OUTER_RING)] = flat[:, :, 1:]
        wide[:, :, list(_INNER_RING)] = -flat[:, :, 1:]
        return wide.unflatten(2, (5, 5))
    return flat.unflatten(2, (3, 3))


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int, kind: str, *, halves: bool) -> None:
        super().__init__()
        side = 5 if kind == "radial" else 3
        self.conv1 = nn.Conv2d(width_in, width_in, side, padding=side // 2, groups=width_in, bias=False)
        self.conv2 = nn.Conv2d(width_in, width, 1, bias=False)
        self.shortcut = nn.Conv2d(width_in, width, 1) if halves else None

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut is None:
            return x + self.conv2(self.conv1(x).relu())
        x = nn.functional.max_pool2d(x, 2)
        return self.shortcut(x) + self.conv2(self.conv1(x).relu())


class _Dilation(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 1)
        for number, dilation in enumerate(DILATIONS, 1):
            conv = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
            self.add_module(f"conv2_{number}", conv)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x.relu())
        seen = [self.get_submodule(f"conv2_{number}")(x) for number in range(1, len(DILATIONS) + 1)]
        return torch.stack(seen).sum(0)


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 4, 1)
        self.conv2 = nn.Conv2d(4, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv2(self.conv1(x.relu())).sigmoid()


class _Reduction(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        reduced: Tensor = self.conv(x)
        return reduced


class PiDiNet(nn.Module):
    """[1, 3, H, W] RGB in [0, 255] → [H, W], from 0 to 1 where edges are. Holds plain kernels."""

    def __init__(self, width: int, seen_width: int) -> None:
        """width: of the first stage (60). seen_width: of what the dilated convolutions see (24)."""
        super().__init__()
        self.init_block = nn.Conv2d(3, width, 3, padding=1, bias=False)
        widths = [width, 2 * width, 4 * width, 4 * width]
        before = width
        for stage, (stage_width, blocks) in enumerate(zip(widths, STAGES, strict=True), 1):
            for number in range(1, blocks + 1):
                halves = stage > 1 and number == 1
                kind = kind_of(f"block{stage}_{number}.conv1")
                self.add_module(f"block{stage}_{number}", _Block(before, stage_width, kind, halves=halves))
                before = stage_width
        self.dilations = nn.ModuleList(_Dilation(stage_width, seen_width) for stage_width in widths)
        self.attentions = nn.ModuleList(_Attention(seen_width) for _ in widths)
        self.conv_reduces = nn.ModuleList(_Reduction(seen_width) for _ in widths)
        self.classifier = nn.Conv2d(len(widths), 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = self.init_block(x.flip(1) / 255.0)  # it was trained on BGR
        painted = []
        for stage, blocks in enumerate(STAGES, 1):
            for number in range(1, blocks + 1):
                x = self.get_submodule(f"block{stage}_{number}")(x)
            seen = self.conv_reduces[stage - 1](self.attentions[stage - 1](self.dilations[stage - 1](x)))
            painted.append(nn.functional.interpolate(seen, size, mode="bilinear", align_corners=False))
        edges: Tensor = self.classifier(torch.cat(painted, 1))
        return edges.sigmoid()[0, 0]


def kind_of(convolution: str) -> str:
    """Of `init_block` and `blockS_N.conv1`: one of KINDS."""
    if convolution == "init_block":
        return KINDS[0]
    stage, number = (int(part) for part in convolution.removeprefix("block").removesuffix(".conv1").split("_"))
    return KINDS[(sum(STAGES[: stage - 1]) + number) % len(KINDS)]


def load_pidinet(tensors: Mapping[str, Tensor]) -> PiDiNet:
    """From the names of the authors' own file, `module.` or not. Raises KeyError, RuntimeError, ValueError."""
    tensors = {name.removeprefix("module."): tensor.float() for name, tensor in tensors.items()}
    network = PiDiNet(len(tensors["init_block.weight"]), len(tensors["dilations.0.conv1.weight"]))
    for name in list(tensors):
        layer = name.removesuffix(".weight")
        if layer == "init_block" or (layer.startswith("block") and layer.endswith(".conv1")):
            tensors[name] = plain_kernel(tensors[name], kind_of(layer))
    network.load_state_dict(tensors)
    return network
