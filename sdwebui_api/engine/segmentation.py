"""What stands where in a picture: segmentation networks in transformers' format (UPerNet, SegFormer, OneFormer …)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sdwebui_api.engine.depth import fitting_scale, read_preparation, shorter_side
from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.libraries import IMPORTING
from sdwebui_api.engine.pictures import normalised, picture_dtype, pretrained
from sdwebui_api.errors import UnusableModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

MULTIPLE = 32
TASK = "the task is semantic"
# ImageNet's statistics, which these networks were trained with.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SegmentationNetwork:
    """Thread-safe; the device is held for one picture."""

    def __init__(
        self, model: Any, preparation: dict[str, Any], task: Tensor | None, dtype: torch.dtype, device: Device
    ) -> None:
        """preparation: `preprocessor_config.json`. task: the tokens `[1, L]` that tell OneFormer what is wanted."""
        self._model = model
        self._side = shorter_side(preparation.get("size")) or 512
        self._mean = preparation.get("image_mean") or MEAN
        self._std = preparation.get("image_std") or STD
        self._task = task
        self._dtype = dtype
        self._device = device

    def classes(self, rgb: NDArray[np.uint8]) -> NDArray[np.int64]:
        """uint8 `[H, W, 3]` → the class of each pixel `[H, W]`. Raises OutOfMemory."""
        height, width = rgb.shape[:2]
        scale = fitting_scale(width, height, self._side)
        size = tuple(max(round(side * scale / MULTIPLE), 1) * MULTIPLE for side in (width, height))
        pixels = normalised(Image.fromarray(rgb), (size[0], size[1]), self._mean, self._std)
        plan = self._device.plan
        given = {} if self._task is None else {"task_inputs": self._task.to(plan.device)}
        with self._device.running(self._model):
            scores = _scores(self._model(pixel_values=pixels.to(plan.device, self._dtype), **given))
            scores = nn.functional.interpolate(scores, (height, width), mode="bilinear", align_corners=False)
            return np.asarray(scores[0].argmax(0).cpu().numpy(), dtype=np.int64)


def _scores(output: Any) -> Tensor:
    """`[1, classes, h, w]`, of networks that score pixels and of those that score masks."""
    if getattr(output, "logits", None) is not None:
        scores: Tensor = output.logits
        return scores.float()
    kinds = output.class_queries_logits.float().softmax(-1)[..., :-1]
    masks = output.masks_queries_logits.float().sigmoid()
    return torch.einsum("bqc,bqhw->bchw", kinds, masks)


def load_segmentation_network(folder: Path, plan: DevicePlan, device: Device) -> SegmentationNetwork:
    """Raises UnusableModel."""
    with IMPORTING:
        from transformers import AutoConfig, AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation

    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise UnusableModel(f"{folder} holds no configuration that can be read: {error}"[:500]) from error
    universal = config.model_type in ("oneformer", "mask2former", "maskformer")
    model = pretrained(AutoModelForUniversalSegmentation if universal else AutoModelForSemanticSegmentation, folder)
    task = _task_tokens(folder, config.task_seq_len) if config.model_type == "oneformer" else None
    dtype = picture_dtype(plan)
    return SegmentationNetwork(model.to(plan.storage, dtype), read_preparation(folder), task, dtype, device)


def _task_tokens(folder: Path, length: int) -> Tensor:
    with IMPORTING:
        from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        raise UnusableModel(f"{folder} holds no vocabulary that can be read: {error}"[:500]) from error
    found = tokenizer(TASK, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    tokens: Tensor = found["input_ids"] * found["attention_mask"]
    return tokens
