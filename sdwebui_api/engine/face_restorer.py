"""GFPGAN and CodeFormer: a face, cut out upright, drawn anew."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.reading import read_pickle, read_tensors
from sdwebui_api.engine.spandrel_package import face_architectures, spandrel
from sdwebui_api.errors import UnusableModel
from sdwebui_api.imaging.faces import Pixels

log = logging.getLogger(__name__)


class FaceRestorerNetwork:
    """In float32, which both need. Thread-safe: the device is held for one face."""

    def __init__(self, model: Any, architecture: str, device: Device) -> None:
        """`model`: pictures [1, 3, 512, 512] from -1 to 1, and keywords, to a tuple that begins with the like."""
        self._model = model
        self._device = device
        # GFPGAN has noise of its own in the file; drawing it anew would make every answer another one.
        self._arguments: dict[str, Any] = {"return_rgb": False, "randomize_noise": False}
        self._weighted = architecture == "CodeFormer"

    def restore(self, face: Pixels, weight: float) -> Pixels:
        """`face` [512, 512, 3] drawn anew. CodeFormer keeps the more of it the larger `weight` (0 to 1) is.

        Raises OutOfMemory, and UnusableModel when what comes out is no picture.
        """
        pixels = torch.from_numpy(face.astype(np.float32) / 127.5 - 1.0).permute(2, 0, 1)[None]
        arguments = {"weight": weight} if self._weighted else self._arguments
        with self._device.running(self._model):
            result = self._model(pixels.to(self._device.plan.device), **arguments)[0][0].float().cpu()
        if not bool(torch.isfinite(result).all()):
            raise UnusableModel("the face restorer made numbers that are no picture")
        restored = result.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return np.asarray(restored.permute(1, 2, 0).numpy())


def load_face_restorer(path: Path, plan: DevicePlan, device: Device) -> FaceRestorerNetwork:
    """The network in `path`. Raises UnusableModel: broken, an untrusted pickle, or neither GFPGAN nor CodeFormer."""
    content = read_tensors(path) if path.suffix.lower() == ".safetensors" else read_pickle(path)
    if not isinstance(content, dict):
        raise UnusableModel(f"{path.name} holds no weights")
    package, registry = spandrel(), face_architectures()
    try:
        with torch.inference_mode(False):  # weights outlive the request that loads them
            found = registry.load(content)
            found.model.requires_grad_(False).eval().to(plan.storage, torch.float32)
    except package.UnsupportedModelError:
        raise UnusableModel(f"{path.name} is neither GFPGAN nor CodeFormer") from None
    except Exception as error:  # what a detector does to weights it took for its own
        raise UnusableModel(f"{path.name} cannot be loaded as a face restorer: {error}"[:500]) from error
    log.info("%s: %s", path.name, found.architecture.name)
    return FaceRestorerNetwork(found.model, found.architecture.id, device)
