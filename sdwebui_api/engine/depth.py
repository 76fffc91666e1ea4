"""How far away all is in a picture: depth networks in transformers' format (DPT/MiDaS, Depth Anything, ZoeDepth).

Pictures are prepared here rather than by the library, whose own way needs torchvision.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.libraries import IMPORTING
from sdwebui_api.engine.pictures import normalised, picture_dtype, pretrained
from sdwebui_api.errors import UnusableModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_ASPECT = 4


class DepthNetwork:
    """Thread-safe; the device is held for one picture."""

    def __init__(self, model: Any, preparation: dict[str, Any], dtype: torch.dtype, device: Device) -> None:
        """preparation: the folder's `preprocessor_config.json`; MiDaS's habits where it is silent."""
        self._model = model
        self._side = shorter_side(preparation.get("size")) or 384
        self._multiple = int(preparation.get("ensure_multiple_of") or 32)
        # DPT's own blocks take squares only.
        self._keeps_aspect = bool(preparation.get("keep_aspect_ratio", model.config.model_type != "dpt"))
        self._mean = preparation.get("image_mean") or (0.5, 0.5, 0.5)
        self._std = preparation.get("image_std") or (0.5, 0.5, 0.5)
        self._dtype = dtype
        self._device = device

    @property
    def metric(self) -> bool:
        """Large is far (metres). False: large is near."""
        kind = getattr(self._model.config, "depth_estimation_type", None)
        return self._model.config.model_type in ("zoedepth", "depth_pro", "glpn") or kind == "metric"

    def depth(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 `[H, W, 3]` → float32 `[H, W]` in the network's own unit. Raises OutOfMemory."""
        height, width = rgb.shape[:2]
        size = self._input_size(width, height)
        pixels = normalised(Image.fromarray(rgb), size, self._mean, self._std)
        with self._device.running(self._model):
            found = self._model(pixels.to(self._device.plan.device, self._dtype)).predicted_depth
            found = found.reshape(1, 1, *found.shape[-2:]).float()
            found = nn.functional.interpolate(found, (height, width), mode="bicubic", align_corners=False)
        return np.asarray(found[0, 0].cpu().numpy(), dtype=np.float32)

    def _input_size(self, width: int, height: int) -> tuple[int, int]:
        if not self._keeps_aspect:
            return self._fitting(self._side), self._fitting(self._side)
        scale = fitting_scale(width, height, self._side)
        return self._fitting(width * scale), self._fitting(height * scale)

    def _fitting(self, length: float) -> int:
        return max(round(length / self._multiple), 1) * self._multiple


def load_depth_network(folder: Path, plan: DevicePlan, device: Device) -> DepthNetwork:
    """Raises UnusableModel."""
    with IMPORTING:
        from transformers import AutoModelForDepthEstimation

    model, dtype = pretrained(AutoModelForDepthEstimation, folder), picture_dtype(plan)
    return DepthNetwork(model.to(plan.storage, dtype), read_preparation(folder), dtype, device)


def read_preparation(folder: Path) -> dict[str, Any]:
    """`preprocessor_config.json`; empty when there is none. Raises UnusableModel when it cannot be read."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusableModel(f"{path} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def fitting_scale(width: int, height: int, side: int) -> float:
    """Brings the shorter side to `side`, but no picture's longer side beyond four times as much."""
    return min(side / min(height, width), MAX_ASPECT * side / max(height, width))


def shorter_side(size: Any) -> int:
    """The shorter side: `{"height", "width"}`, `{"shortest_edge"}` or a number."""
    if isinstance(size, dict):
        sides = [size[name] for name in ("height", "width", "shortest_edge") if isinstance(size.get(name), int)]
        return min(sides, default=0)
    return size if isinstance(size, int) else 0
