"""A network of a preprocessor on the device, and how it gets there from its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.reading import Tensors, read_pickle, read_tensors, tensors_of
from sdwebui_api.errors import UnusableModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

Build = Callable[[Tensors], nn.Module]
"""A module for the weights in a file, without memory. Raises KeyError, ValueError when it is another file."""

_WRAPPERS = ("state_dict", "model", "depth_model")
"""Names under which training scripts keep the weights beside the optimiser's state."""


class PictureNetwork:
    """Thread-safe; the device is held for one picture."""

    def __init__(self, module: nn.Module, device: Device) -> None:
        self._module = module
        self._device = device

    def run(self, rgb: NDArray[np.uint8] | NDArray[np.float32], **options: float) -> NDArray[np.float32]:
        """`[H, W, C]` in [0, 255] → what the module makes of `[1, C, H, W]`. Raises OutOfMemory."""
        pixels = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None].float()
        with self._device.running(self._module):
            found: Tensor = self._module(pixels.to(self._device.plan.device), **options)
            return np.asarray(found.float().cpu().numpy(), dtype=np.float32)


def load_picture_network(
    path: Path, plan: DevicePlan, device: Device, build: Build, what: str, part: str = ""
) -> PictureNetwork:
    """`what`: what the file should hold, for the error. `part`: the start of the names of the tensors that count,
    without which `build` gets them. Raises UnusableModel.
    """
    named = {name.removeprefix("module."): tensor for name, tensor in read_weights(path).items()}
    tensors = {name.removeprefix(part): tensor for name, tensor in named.items() if name.startswith(part)}
    return PictureNetwork(filled(build, tensors, f"{path.name} is no {what}").to(plan.storage), device)


def filled(build: Build, tensors: Tensors, complaint: str) -> nn.Module:
    """The module with its weights in float32. Raises UnusableModel, beginning with `complaint`, unless all fit."""
    try:
        with torch.device("meta"):
            module = build(tensors)
        # A copy: the file's pages must not change under a running network.
        whole = {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}
        module.load_state_dict(whole, assign=True)
    except (KeyError, IndexError, RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise UnusableModel(f"{complaint}: {error}"[:300]) from error
    return module.requires_grad_(False).eval()


def read_weights(path: Path) -> Tensors:
    """As `read_tensors`, from checkpoints of training too. Raises UnusableModel."""
    if path.suffix.lower() == ".safetensors":
        return read_tensors(path)
    content = read_pickle(path)
    for name in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    return tensors_of(content)
