"""The two operators of torchvision that TorchScript files of detectors call: `nms` and `roi_align`.

The package itself is large and must be built for exactly the torch in use, so these stand in for it where it is not
installed. They follow its documented semantics.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from sdwebui_api.imaging.boxes import without_overlaps

_ROIS_AT_ONCE = 64


@cache
def provide_vision_ops() -> Any:
    """Makes `torch.ops.torchvision.nms` and `roi_align` callable from TorchScript; once per process."""
    if find_spec("torchvision") is not None:
        import torchvision  # type: ignore[import-not-found]

        return torchvision
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define(
        "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
        "int sampling_ratio, bool aligned) -> Tensor"
    )
    library.impl("nms", nms, "CompositeExplicitAutograd")
    library.impl("roi_align", roi_align, "CompositeExplicitAutograd")
    return library


def nms(boxes: Tensor, scores: Tensor, limit: float) -> Tensor:
    """Indices of the boxes `[n, 4]` that no surer one covers by more than `limit`, the surest first."""
    order = scores.argsort(descending=True, stable=True)
    kept = without_overlaps(boxes[order].float().cpu().numpy(), limit)
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]


def roi_align(
    features: Tensor, rois: Tensor, scale: float, height: int, width: int, samples: int, aligned: bool
) -> Tensor:
    """`[B, C, H, W]` and `[n, 5]` (picture, left, top, right, bottom) → `[n, C, height, width]`.

    The mean of `samples` by `samples` points of each cell, read bilinearly (He et al. 2017, arXiv 1703.06870); 0: as
    many as the cell has pixels. Reading is linear in either direction, so that it is two products of matrices.
    """
    found = features.new_zeros(len(rois), features.shape[1], height, width)
    offset = 0.5 if aligned else 0.0
    for first in range(0, len(rois), _ROIS_AT_ONCE):
        part = slice(first, first + _ROIS_AT_ONCE)
        boxes = rois[part, 1:].float() * scale - offset
        down = _readings(boxes[:, 1], boxes[:, 3], height, features.shape[2], samples, aligned)
        across = _readings(boxes[:, 0], boxes[:, 2], width, features.shape[3], samples, aligned)
        for index, picture in enumerate(rois[part, 0].long()):
            rows = torch.einsum("ph,chw->cpw", down[index].to(features), features[picture])
            found[first + index] = rows @ across[index].to(features).T
    return found


def _readings(starts: Tensor, ends: Tensor, cells: int, length: int, samples: int, aligned: bool) -> list[Tensor]:
    """For each range, `[cells, length]`: how much every pixel counts in the mean of each cell."""
    sizes = ends - starts
    if not aligned:
        sizes = sizes.clamp(min=1.0)
    return [
        _reading(float(start), float(size), cells, length, samples) for start, size in zip(starts, sizes, strict=True)
    ]


def _reading(start: float, size: float, cells: int, length: int, samples: int) -> Tensor:
    count = samples if samples > 0 else max(-int(-size // cells), 1)
    places = start + (torch.arange(cells * count) + 0.5) * (size / cells / count)
    outside = (places < -1.0) | (places > length)
    places = places.clamp(0.0, length - 1.0)
    before = places.floor().long()
    share = places - before
    weights = torch.zeros(cells * count, length)
    rows = torch.arange(cells * count)
    weights[rows, before] += 1.0 - share
    weights[rows, (before + 1).clamp(max=length - 1)] += share
    weights[outside] = 0.0
    return weights.unflatten(0, (cells, count)).mean(1)
