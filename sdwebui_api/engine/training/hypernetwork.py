"""Hypernetworks made, taught and written, in A1111's file format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from sdwebui_api.engine.networks.hypernetworks import (
    Architecture,
    Hypernetwork,
    HypernetworkLayer,
    apply_hypernetworks,
    load_hypernetwork,
)
from sdwebui_api.engine.reading import read_pickle
from sdwebui_api.engine.training.objective import Objective
from sdwebui_api.errors import BadRequest, UnusableModel

if TYPE_CHECKING:
    from sdwebui_api.engine.model import DiffusionModel, UNet
    from sdwebui_api.engine.training.dataset import Batch

WEIGHT_INITS = ("Normal", "KaimingUniform", "KaimingNormal", "XavierUniform", "XavierNormal")
MAX_PARAMETERS = 2**27


class Texts(Protocol):
    def encode(self, texts: Sequence[str]) -> Tensor:
        """[B, 77n, D] float32, without autograd."""
        ...


@dataclass(frozen=True)
class HypernetworkState:
    """A hypernetwork with what its file says about it."""

    name: str
    network: Hypernetwork
    architecture: Architecture
    weight_init: str = "Normal"
    use_dropout: bool = False
    step: int = 0
    checkpoint: str | None = None
    """Short hash of the checkpoint it was trained on."""
    checkpoint_name: str | None = None

    def trained(self, step: int, checkpoint: str | None, checkpoint_name: str | None) -> HypernetworkState:
        return replace(self, step=step, checkpoint=checkpoint, checkpoint_name=checkpoint_name)

    def data(self) -> dict[Any, Any]:
        """The content of A1111's `.pt`."""
        layers = {width: (_weights(keys), _weights(values)) for width, (keys, values) in self.network.layers.items()}
        return {
            **layers,
            "step": self.step,
            "name": self.name,
            "layer_structure": list(self.architecture.structure),
            "activation_func": self.architecture.activation,
            "is_layer_norm": self.architecture.layer_norm,
            "weight_initialization": self.weight_init,
            "use_dropout": self.use_dropout,
            "sd_checkpoint": self.checkpoint,
            "sd_checkpoint_name": self.checkpoint_name,
            "activate_output": self.architecture.activate_output,
            "last_layer_dropout": False,
            "dropout_structure": list(self.architecture.dropout) or None,
            "optional_info": None,
        }


def create(
    name: str, widths: Sequence[int], architecture: Architecture, weight_init: str, *, use_dropout: bool = False
) -> HypernetworkState:
    """An untrained hypernetwork that changes next to nothing. Raises BadRequest when it would be too large."""
    parameters = 2 * sum(_parameters(width, architecture.structure) for width in widths)
    if parameters > MAX_PARAMETERS:
        message = f"{parameters:,} numbers are too many for a hypernetwork; the limit is {MAX_PARAMETERS:,}"
        raise BadRequest(message, field="layer_structure")
    _check(min(widths), architecture)
    layers = {width: (_new_layer(width, architecture, weight_init), _new_layer(width, architecture, weight_init))
              for width in widths}  # fmt: skip
    return HypernetworkState(name, Hypernetwork(layers), architecture, weight_init, use_dropout)


def _check(width: int, architecture: Architecture) -> None:
    """Not everything that torch calls an activation can stand alone between two layers."""
    try:
        with torch.no_grad():
            HypernetworkLayer(width, architecture)(torch.zeros(1, 1, width))
    except (UnusableModel, TypeError, ValueError, RuntimeError) as error:
        message = f"{architecture.activation!r} cannot be the activation: {str(error)[:200]}"
        raise BadRequest(message, field="activation_func", choices=("linear", "relu", "leakyrelu", "elu", "swish",
                         "tanh", "sigmoid", "mish", "softsign", "gelu", "silu")) from error  # fmt: skip


def _parameters(width: int, structure: Sequence[float]) -> int:
    widths = [int(width * factor) for factor in structure]
    return sum(before * after + after for before, after in pairwise(widths))


def _new_layer(width: int, architecture: Architecture, weight_init: str) -> HypernetworkLayer:
    layer = HypernetworkLayer(width, architecture)
    slope = "leaky_relu" if architecture.activation == "leakyrelu" else "relu"
    for part in layer.linear:
        if isinstance(part, nn.LayerNorm):
            # Near zero like the rest: a new hypernetwork must not change pictures.
            nn.init.normal_(part.weight, 0.0, 0.01)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear):
            _initialise(part.weight, weight_init, slope)
            nn.init.zeros_(part.bias)
    return layer


def _initialise(weight: Tensor, weight_init: str, slope: Any) -> None:
    if weight_init == "Normal":
        nn.init.normal_(weight, 0.0, 0.01)
    elif weight_init == "KaimingUniform":
        nn.init.kaiming_uniform_(weight, nonlinearity=slope)
    elif weight_init == "KaimingNormal":
        nn.init.kaiming_normal_(weight, nonlinearity=slope)
    elif weight_init == "XavierUniform":
        nn.init.xavier_uniform_(weight)
    elif weight_init == "XavierNormal":
        nn.init.xavier_normal_(weight)
    else:
        raise BadRequest(f"unknown weight initialisation {weight_init!r}", field="weight_init", choices=WEIGHT_INITS)


def read(path: Path, name: str, device: torch.device) -> HypernetworkState:
    """A file, its layers on `device`. Raises UnusableModel when it is broken or no hypernetwork."""
    network = load_hypernetwork(path, 1.0, device)
    stated: Mapping[Any, Any] = read_pickle(path)
    step = stated.get("step")
    return HypernetworkState(
        name=name,
        network=network,
        architecture=Architecture.from_file(stated),
        weight_init=str(stated.get("weight_initialization") or "Normal"),
        use_dropout=bool(stated.get("use_dropout", False)),
        step=step if isinstance(step, int) else 0,
    )


class HypernetworkLearner:
    """Layers that are taught; a `loop.Learner`. `unet` has to be a twin: the layers are hung into it."""

    weight_decay = 0.01

    def __init__(self, network: Hypernetwork, texts: Texts, model: DiffusionModel, unet: UNet, seed: int) -> None:
        """Raises BadRequest naming `hypernetwork_name` when no layer fits the UNet."""
        known = context_widths(unet)
        if not known & network.layers.keys():
            message = (
                f"it has layers for the widths {sorted(network.layers)}; this checkpoint has the widths {sorted(known)}"
            )
            raise BadRequest(message, field="hypernetwork_name")
        for layer in _layers_of(network):
            layer.requires_grad_(True).train()
        apply_hypernetworks(unet.module, [network])
        self._network = network
        self._texts = texts
        self._unet = unet
        self._objective = Objective(model, unet, seed)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for layer in _layers_of(self._network) for parameter in layer.parameters()]

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Without dropout: as the hypernetwork will be used."""
        for layer in _layers_of(self._network):
            layer.eval()
        try:
            yield
        finally:
            for layer in _layers_of(self._network):
                layer.train()

    def accumulate(self, batch: Batch, scale: float) -> float:
        context = self._texts.encode(batch.prompts)
        with self._unet.holding(), torch.enable_grad():
            loss = self._objective.loss(batch, context)
            (loss * scale).backward()
            return loss.item()


def context_widths(unet: UNet) -> set[int]:
    """What hypernetworks can be made for: the widths that attention takes its keys and values from."""
    return {
        part.to_k.in_features
        for part in unet.module.modules()
        if isinstance(getattr(part, "to_k", None), nn.Linear) and hasattr(part, "to_v")
    }


def _layers_of(network: Hypernetwork) -> list[HypernetworkLayer]:
    return [layer for pair in network.layers.values() for layer in pair]


def _weights(layer: HypernetworkLayer) -> dict[str, Tensor]:
    return {name: tensor.detach().float().cpu().clone() for name, tensor in layer.state_dict().items()}
