"""`--blade`: networks that torch.compile has translated and, on a GPU, CUDA graphs replay.

A translation is made for one shape of inputs, in the background, while the network itself goes on serving; whatever
goes wrong with it is a warning, and the network serves on. What is compiled are the repeated blocks, not the whole
network: those of equal width share one translation, so there is little to translate (diffusers calls that regional
compilation).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sdwebui_api.engine.twins import twin_of

log = logging.getLogger(__name__)

MAX_SHAPES = 8
"""Translations kept per network. A CUDA graph holds the memory of its activations."""
RECOMPILE_LIMIT = 256
"""Of torch.compile, per block: widths times shapes. Beyond it blocks would run untranslated."""
REPLAY_TRIALS = 3
"""Forward passes before a capture, in which libraries choose their algorithms."""

Inputs = Mapping[str, Tensor]


class Prediction(Protocol):
    """A network made ready for inputs of one shape."""

    def __call__(self, inputs: Inputs) -> Tensor: ...


class CompiledNetwork:
    """Translations of one diffusers UNet by shape. Thread-safe."""

    def __init__(self, module: Any, device: torch.device, held: Callable[[], Any]) -> None:
        """`module`: left as it is; its weights are shared. `held`: a context that has the device to itself."""
        self._module = module
        self._device = device
        self._held = held
        self._mutex = threading.Lock()
        self._ready: dict[Hashable, Prediction | None] = {}
        """None: on its way."""
        self._twin: Any = None
        self._failed = False

    def predict(self, inputs: Inputs) -> Tensor | None:
        """What the UNet says to `inputs` (its arguments by name); None while that has to be asked of itself.

        Call while holding the device.
        """
        shape = _shape(inputs)
        with self._mutex:
            if self._failed or (shape not in self._ready and len(self._ready) >= MAX_SHAPES):
                return None
            if shape not in self._ready:
                self._ready[shape] = None
                self._begin(shape, inputs)
            prediction = self._ready[shape]
        return None if prediction is None else prediction(inputs)

    def _begin(self, shape: Hashable, inputs: Inputs) -> None:
        inference = torch.is_inference_mode_enabled()
        kept = {name: tensor.clone() for name, tensor in inputs.items()}
        arguments = (shape, kept, inference)
        threading.Thread(target=self._prepare, args=arguments, name="blade", daemon=True).start()

    def _prepare(self, shape: Hashable, inputs: Inputs, inference: bool) -> None:
        # Translations hold for the mode they were made in, so it has to be that of the jobs.
        with torch.inference_mode(inference), torch.no_grad():
            try:
                prediction = self._translate(inputs)
            except Exception as error:  # compilers fail in many ways, none of which may end a job
                with self._mutex:
                    self._failed = True
                log.warning("--blade: going on without compilation: %s", (str(error).splitlines() or [""])[0][:300])
                return
        with self._mutex:
            self._ready[shape] = prediction
        log.info("--blade: compiled for latents of %s", "x".join(map(str, inputs["sample"].shape)))

    def _translate(self, inputs: Inputs) -> Prediction:
        with self._held():  # whoever runs may have changed the module for the time being
            if self._twin is None:
                self._twin = compiled_twin(self._module, self._device)
        _call(self._twin, inputs)
        if self._device.type != "cuda":
            return lambda given: _call(self._twin, given)
        with self._held():
            return Replay(self._twin, inputs, self._device)

    @property
    def ready(self) -> int:
        """Shapes that are served compiled."""
        with self._mutex:
            return sum(prediction is not None for prediction in self._ready.values())


def compiled_twin(module: Any, device: torch.device) -> Any:
    """The same weights in modules of their own, the repeated blocks compiled at their first call."""
    twin = twin_of(module)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    for block in twin.modules():
        if _repeats(block, device):
            block.compile(dynamic=False)
    return twin


def _repeats(block: nn.Module, device: torch.device) -> bool:
    """Transformer blocks; on a GPU residual blocks too. On a CPU those are convolutions and little else to gain."""
    kinds = {"BasicTransformerBlock", "ResnetBlock2D"} if device.type == "cuda" else {"BasicTransformerBlock"}
    return type(block).__name__ in kinds


class Replay:
    """A forward pass recorded as a CUDA graph: one launch in place of thousands."""

    def __init__(self, module: Any, inputs: Inputs, device: torch.device) -> None:
        """Call while holding `device`, which need not be the thread's current one."""
        self._inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        with torch.cuda.device(device):
            self._capture(module)

    def _capture(self, module: Any) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(REPLAY_TRIALS):
                _call(module, self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may copy pictures to and from the GPU meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._output = _call(module, self._inputs)

    def __call__(self, inputs: Inputs) -> Tensor:
        for name, tensor in inputs.items():
            self._inputs[name].copy_(tensor, non_blocking=True)
        self._graph.replay()
        return self._output.clone()


def _call(module: Any, inputs: Inputs) -> Tensor:
    prediction: Tensor = module(**inputs, return_dict=False)[0]
    return prediction


def _shape(inputs: Inputs) -> Hashable:
    return tuple((name, tensor.shape, tensor.stride(), tensor.dtype) for name, tensor in inputs.items())
