"""`modules.devices`: where tensors are, of the running job's model."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from sdwebui_api.scripting.compat.modules import rng
from sdwebui_api.scripting.compat.world import current_device

cpu = torch.device("cpu")
fp8 = False
force_fp16 = False
unet_needs_upcast = False


class NansException(Exception):
    """A tensor is all NaN."""


def get_optimal_device_name() -> str:
    return str(current_device())


def get_optimalcurrent_device() -> torch.device:
    return current_device()


def get_device_for(task: str) -> torch.device:
    return current_device()


def get_cuda_device_id() -> int:
    return current_device().index or 0


def has_mps() -> bool:
    return False


def torch_gc() -> None:
    """Nothing: the engine gives memory back by itself, and other jobs are at work."""


def autocast(disable: bool = False) -> Any:
    """Tensors here are float32, and the model takes any precision."""
    return contextlib.nullcontext()


def without_autocast(disable: bool = False) -> Any:
    return contextlib.nullcontext()


def test_for_nans(x: Any, where: str) -> None:
    if torch.all(torch.isnan(x)).item():
        raise NansException(f"A tensor with all NaNs was produced in {where}.")


def randn(seed: int, shape: Any, generator: Any = None) -> Any:
    return rng.randn(seed, shape)


def __getattr__(name: str) -> Any:
    if name.startswith("device"):
        return current_device()
    if name.startswith("dtype"):
        return torch.float32
    raise AttributeError(f"modules.devices.{name} is not offered by this server")
