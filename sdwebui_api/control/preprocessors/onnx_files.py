"""ONNX files among the weights of preprocessors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sdwebui_api.control.poses.boxes import OnnxModel
from sdwebui_api.control.weights import WeightFile, network

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import PreprocessorContext


@contextmanager
def onnx_file(context: PreprocessorContext, name: str, file: WeightFile) -> Iterator[OnnxModel]:
    """The network of a file that the preprocessor `name` needs. Raises NotFound, UnusableModel."""
    path = file.find(context, name)
    from sdwebui_api.engine.onnx_network import OnnxNetwork, load_onnx_network

    with network(context, path, load_onnx_network, OnnxNetwork) as found:
        yield found
