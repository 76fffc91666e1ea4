"""Picture classifiers in transformers' format: a label, with its probability, for what a picture is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.libraries import IMPORTING
from sdwebui_api.engine.pictures import normalised, picture_dtype, pretrained


class PictureClassifier:
    """Thread-safe; the device is held for one picture."""

    def __init__(self, model: Any, preparation: dict[str, Any], dtype: torch.dtype, device: Device) -> None:
        """`preparation`: the folder's `preprocessor_config.json`; size 224 and mean and std 0.5 where it is silent."""
        self._model = model
        size = preparation.get("size", 224)
        side: Any = size.get("height") or size.get("shortest_edge") or 224 if isinstance(size, dict) else size
        self._size = (int(side), int(side))
        self._mean = preparation.get("image_mean") or (0.5, 0.5, 0.5)
        self._std = preparation.get("image_std") or (0.5, 0.5, 0.5)
        self._dtype = dtype
        self._device = device

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(str(label) for label in self._model.config.id2label.values())

    def probabilities(self, image: Image.Image) -> dict[str, float]:
        """Label to probability; they add up to 1. Raises OutOfMemory."""
        pixels = normalised(image, self._size, self._mean, self._std)
        with self._device.running(self._model):
            logits = self._model(pixels.to(self._device.plan.device, self._dtype)).logits[0].float()
        return {label: float(value) for label, value in zip(self.labels, logits.softmax(-1), strict=True)}


def load_classifier(folder: Path, plan: DevicePlan, device: Device) -> PictureClassifier:
    """Raises UnusableModel."""
    with IMPORTING:
        from transformers import AutoModelForImageClassification

    model, dtype = pretrained(AutoModelForImageClassification, folder), picture_dtype(plan)
    return PictureClassifier(model.to(plan.storage, dtype), _preparation(folder), dtype, device)


def _preparation(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
