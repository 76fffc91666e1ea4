"""Pictures as the small networks take them that look at pictures or enlarge them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdwebui_api.engine.devices import DevicePlan
from sdwebui_api.engine.libraries import prepare_torch
from sdwebui_api.errors import UnusableModel


def picture_dtype(plan: DevicePlan) -> torch.dtype:
    """fp16 on CUDA, as the UNet has it; float32 elsewhere, for bf16 has not the 8 bits a picture needs."""
    return plan.unet_dtype if plan.device.type == "cuda" else torch.float32


def normalised(image: Image.Image, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """[1, 3, h, w] float32: `image` squeezed to `size` (w, h), channels in [0, 1] less `mean`, over `std`."""
    pixels = np.asarray(flattened(image).resize(size, Image.Resampling.BICUBIC), dtype=np.float32) / 255.0
    scaled = (pixels - np.asarray(mean, dtype=np.float32)) / np.asarray(std, dtype=np.float32)
    return torch.from_numpy(scaled).permute(2, 0, 1).unsqueeze(0).contiguous()


def flattened(image: Image.Image) -> Image.Image:
    """RGB, transparent parts on white."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    canvas = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(canvas, layer).convert("RGB")


def pretrained(kind: Any, folder: Path) -> Any:
    """A transformers model from `folder`, never from anywhere else. Raises UnusableModel."""
    prepare_torch()
    try:
        with torch.inference_mode(False):
            model = kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            return model.requires_grad_(False).eval()
    except Exception as error:  # the library fails in every way there is
        raise UnusableModel(f"{folder} cannot be loaded: {(str(error).splitlines() or [''])[0]}"[:500]) from error
