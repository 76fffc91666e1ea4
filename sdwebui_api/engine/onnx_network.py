"""Networks in ONNX files, run by onnxruntime."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.errors import UnusableModel

if TYPE_CHECKING:
    from numpy.typing import NDArray


class OnnxNetwork:
    """A network with one input. Thread-safe."""

    def __init__(self, session: Any, name: str) -> None:
        """session: an `onnxruntime.InferenceSession`. name: the file's, for errors."""
        self._session = session
        self._name = name
        self._input = session.get_inputs()[0]

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the pictures that it takes, `[N, 3, H, W]`; None when any will do."""
        shape: list[Any] = self._input.shape
        if len(shape) != 4 or not all(isinstance(side, int) and side > 0 for side in shape[2:]):
            return None
        return shape[3], shape[2]

    def run(self, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """All outputs, in the file's order. Raises UnusableModel when the file is for another kind of input."""
        try:
            found = self._session.run(None, {self._input.name: np.ascontiguousarray(x)})
        except Exception as error:
            raise UnusableModel(f"{self._name} does not run on pictures: {error}"[:500]) from error
        return [np.asarray(output) for output in found]


def load_onnx_network(path: Path, plan: DevicePlan, device: Device) -> OnnxNetwork:
    """On the GPU if onnxruntime can use it, else on the CPU. Raises UnusableModel, also when it is not installed."""
    if find_spec("onnxruntime") is None:
        raise UnusableModel(f"{path.name} needs the package onnxruntime: pip install onnxruntime")
    import onnxruntime

    wanted = ["CPUExecutionProvider"]
    if plan.device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        wanted = ["CUDAExecutionProvider", *wanted]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings about the files' initializers help nobody
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:
        raise UnusableModel(f"{path.name} cannot be loaded: {error}"[:500]) from error
    if len(session.get_inputs()) != 1:
        raise UnusableModel(f"{path.name} takes {len(session.get_inputs())} inputs instead of a picture")
    return OnnxNetwork(session, path.name)
