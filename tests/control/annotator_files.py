"""Files of preprocessors' networks as their authors publish them, with random weights, full size or small."""

from __future__ import annotations

import lzma
import re
from pathlib import Path

import torch
from torch import Tensor

LAYOUTS = Path(__file__).parent / "layouts"
Shapes = dict[str, tuple[int, ...]]


def layout(name: str) -> Shapes:
    """Names and shapes of a published file's tensors (`layouts/README.md`)."""
    lines = lzma.decompress((LAYOUTS / f"{name}.txt.xz").read_bytes()).decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines)
    return {name: tuple(int(side) for side in shape.split("x") if side) for name, _, shape in pairs}


def shrunk(shapes: Shapes, keep: str = r"$^", whole: str = r"$^") -> Shapes:
    """An eighth of every width. 8a + b becomes a + b, so that sums of widths stay sums.

    keep, whole: patterns of tensors whose first dimension stays, or all of them.
    """

    def small(side: int) -> int:
        return side // 8 + side % 8 if side >= 8 else side

    found = {}
    for name, shape in shapes.items():
        first = shape[:1] if re.search(keep, name) else tuple(small(side) for side in shape[:1])
        found[name] = shape if re.search(whole, name) else (*first, *(small(side) for side in shape[1:2]), *shape[2:])
    return found


def drawn(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Random weights that neither die nor explode on the way through many layers."""
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            found[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            found[name] = torch.rand(shape, generator=draw) + 0.5
        elif len(shape) > 1:
            inputs = max(torch.zeros(shape, device="meta")[0].numel(), 1)
            found[name] = torch.randn(shape, generator=draw) / inputs**0.5
        else:
            found[name] = torch.randn(shape, generator=draw) * 0.1 + float(name.endswith("weight"))
    return found
