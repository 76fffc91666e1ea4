"""OpenPose's networks (Cao et al. 2019, arXiv 1812.08008; hands: Simon et al. 2017, arXiv 1704.07809): heat maps of
the points of bodies, hands and faces.

Layers have the names of CMU's Caffe models, under which the weights are passed on (`body_pose_model.pth`,
`hand_pose_model.pth`, `facenet.pth`); widths come from the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.reading import Shapes, Tensors, read_tensors, shapes_of
from sdwebui_api.errors import UnusableModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

STRIDE = 8
"""Pixels of the picture to one of the maps."""
FLOW_MAPS, BODY_MAPS, HAND_MAPS, FACE_MAPS = 38, 19, 22, 71
"""Two maps for each of 19 limbs; a map for each point and one for the background."""

_VGG = (
    "conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv3_4", "conv4_1", "conv4_2",
)  # fmt: skip
_BODY = (*_VGG, "conv4_3_CPM", "conv4_4_CPM")
_PART = (*_VGG, "conv4_3", "conv4_4", "conv5_1", "conv5_2", "conv5_3_CPM")
_HALVED_BEFORE = ("conv2_1", "conv3_1", "conv4_1")
_STAGES = range(2, 7)


class _Convolutions(nn.Module):
    """Convolutions under their own names, of the shapes that the file has."""

    def __init__(self, shapes: Shapes, names: Iterable[str]) -> None:
        super().__init__()
        for name in names:
            width, width_in, side, _ = shapes[f"{name}.weight"]
            self.add_module(name, nn.Conv2d(width_in, width, side, padding=side // 2))

    def _run(self, names: Iterable[str], x: Tensor) -> Tensor:
        """One after the other, a rectifier after each."""
        for name in names:
            if name in _HALVED_BEFORE:
                x = nn.functional.max_pool2d(x, 2)
            x = self.get_submodule(name)(x).relu()
        return x

    def _run_linear_last(self, names: tuple[str, ...], x: Tensor) -> Tensor:
        found: Tensor = self.get_submodule(names[-1])(self._run(names[:-1], x))
        return found


def _first_branch(branch: int) -> tuple[str, ...]:
    return tuple(f"conv5_{number}_CPM_L{branch}" for number in range(1, 6))


def _refining(stage: int, suffix: str = "") -> tuple[str, ...]:
    return tuple(f"Mconv{number}_stage{stage}{suffix}" for number in range(1, 8))


class BodyMaps(_Convolutions):
    """`[1, 3, H, W]` → `[1, 38 + 19, H/8, W/8]`: where limbs lead to, then where points are."""

    def __init__(self, shapes: Shapes) -> None:
        branches = [_first_branch(branch) for branch in (1, 2)]
        branches += [_refining(stage, f"_L{branch}") for stage in _STAGES for branch in (1, 2)]
        super().__init__(shapes, (*_BODY, *(name for branch in branches for name in branch)))
        self._stages = list(zip(branches[::2], branches[1::2], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        seen = x = self._run(_BODY, x)
        flow = points = seen
        for number, (to_flow, to_points) in enumerate(self._stages):
            x = torch.cat([flow, points, seen], 1) if number else seen
            flow, points = self._run_linear_last(to_flow, x), self._run_linear_last(to_points, x)
        return torch.cat([flow, points.relu()], 1)


class PartMaps(_Convolutions):
    """`[1, 3, H, W]` → `[1, maps, H/8, W/8]`, of a hand's points or of a face's."""

    def __init__(self, shapes: Shapes) -> None:
        self._stages = [("conv6_1_CPM", "conv6_2_CPM"), *(_refining(stage) for stage in _STAGES)]
        super().__init__(shapes, (*_PART, *(name for stage in self._stages for name in stage)))

    def forward(self, x: Tensor) -> Tensor:
        seen = self._run(_PART, x)
        points = self._run_linear_last(self._stages[0], seen)
        for stage in self._stages[1:]:
            points = self._run_linear_last(stage, torch.cat([points, seen], 1))
        return points


class PoseNetwork:
    """One of the networks above on the device. Thread-safe; the device is held for one picture.

    kind: "body", "hand" or "face".
    """

    def __init__(self, network: nn.Module, kind: str, device: Device) -> None:
        self._network = network
        self.kind = kind
        self._device = device

    def maps(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """BGR `[H, W, 3]` in [-0.5, 0.5], sides multiples of 8 → `[H/8, W/8, maps]`. Raises OutOfMemory."""
        x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
        with self._device.running(self._network):
            found = self._network(x.to(self._device.plan.device))[0].float().cpu()
        return np.asarray(found.permute(1, 2, 0).numpy(), dtype=np.float32)


def load_pose_network(path: Path, plan: DevicePlan, device: Device) -> PoseNetwork:
    """For bodies, hands or faces, told by the file's layers. Raises UnusableModel."""
    # Copies: the pages of the file must not change under a running network.
    tensors = {name: tensor.to(torch.float32, copy=True) for name, tensor in read_tensors(path).items()}
    try:
        network, kind = _network_for(tensors)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UnusableModel(f"{path.name} is no network of OpenPose: {error}"[:300]) from error
    return PoseNetwork(network.requires_grad_(False).eval().to(plan.storage), kind, device)


def _network_for(tensors: Tensors) -> tuple[nn.Module, str]:
    """With its weights. Raises KeyError, RuntimeError, ValueError when they do not fit."""
    shapes = shapes_of(tensors)
    with torch.device("meta"):
        network = BodyMaps(shapes) if "conv4_4_CPM.weight" in tensors else PartMaps(shapes)
        maps = network(torch.empty(1, 3, STRIDE, STRIDE)).shape[1]
    kinds = {FLOW_MAPS + BODY_MAPS: "body", HAND_MAPS: "hand", FACE_MAPS: "face"}
    if maps not in kinds:
        raise ValueError(f"it makes {maps} maps")
    own = {name: tensors[name] for name in network.state_dict()}
    network.load_state_dict(own, assign=True)
    return network, kinds[maps]
