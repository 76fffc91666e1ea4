"""DensePose (Güler et al. 2018, arXiv 1802.00434): which part of a body each pixel shows, by a TorchScript file."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sdwebui_api.engine.annotators.vision_ops import provide_vision_ops
from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.errors import SdWebUIError, UnusableModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARTS = 24

_TOUCHES_FILES = re.compile(rb"\b(?:save|from_file)\s*\(")
"""Operators by which a TorchScript program could read or write files."""


class DensePoseNetwork:
    """Thread-safe; the device is held for one picture."""

    def __init__(self, module: Any, name: str, device: Device) -> None:
        self._module = module
        self._name = name
        self._device = device

    def parts(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 `[H, W, 3]` → uint8 `[H, W]`: 0 for the background, 1 to 24 for the parts of bodies.

        Raises OutOfMemory, UnusableModel.
        """
        labels = torch.zeros(rgb.shape[:2], dtype=torch.uint8)
        pixels = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)
        try:
            with self._device.running(self._module):
                boxes, coarse, fine, _u, _v = self._module(pixels.to(self._device.plan.device))
                for box, outline, parts in zip(boxes.tolist(), coarse.float(), fine.float(), strict=True):
                    _paint(labels, box, outline, parts)
        except SdWebUIError:
            raise
        except (RuntimeError, TypeError, ValueError, OverflowError) as error:
            raise UnusableModel(f"{self._name} is no DensePose for pictures: {error}"[:500]) from error
        return np.asarray(labels.numpy(), dtype=np.uint8)


def _paint(labels: Tensor, box: list[float], outline: Tensor, parts: Tensor) -> None:
    """box: left, top, right, bottom; outline `[2, h, w]` and parts `[25, h, w]`: scores within it."""
    left, top = int(box[0]), int(box[1])
    size = max(int(box[3] - box[1]), 1), max(int(box[2] - box[0]), 1)
    inside, kind = (
        nn.functional.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0].argmax(0)
        for scores in (outline, parts)
    )
    found = (kind * (inside > 0)).to(labels).cpu()
    found = found[max(-top, 0) :, max(-left, 0) :]
    target = labels[max(top, 0) :, max(left, 0) :]
    height, width = (min(one, other) for one, other in zip(found.shape, target.shape, strict=True))
    found, target = found[:height, :width], target[:height, :width]
    target[:] = torch.where(found > 0, found, target)


def load_densepose(path: Path, plan: DevicePlan, device: Device) -> DensePoseNetwork:
    """Raises UnusableModel, also when the file's program would touch other files."""
    _check(path)
    provide_vision_ops()
    try:
        module = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        raise UnusableModel(f"{path.name} cannot be loaded as TorchScript: {error}"[:500]) from error
    module.eval()
    return DensePoseNetwork(module.to(plan.storage), path.name, device)


def _check(path: Path) -> None:
    """A TorchScript file is a program in a language without files, but for a few operators."""
    try:
        with zipfile.ZipFile(path) as archive:
            sources = [archive.read(name) for name in archive.namelist() if name.endswith(".py")]
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise UnusableModel(f"{path.name} is no TorchScript file: {error}"[:300]) from error
    if any(_TOUCHES_FILES.search(source) for source in sources):
        raise UnusableModel(f"{path.name} reads or writes files and was not loaded")
