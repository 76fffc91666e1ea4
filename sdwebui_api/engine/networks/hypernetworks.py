"""Hypernetworks: small networks that change what attention takes its keys and values from.

The file format and its meaning are A1111's (`modules/hypernetworks/hypernetwork.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdwebui_api.engine.libraries import IMPORTING
from sdwebui_api.engine.reading import read_pickle
from sdwebui_api.errors import UnusableModel

DROPOUT = 0.3
_OLD_NAMES = {
    "linear1.bias": "linear.0.bias",
    "linear1.weight": "linear.0.weight",
    "linear2.bias": "linear.1.bias",
    "linear2.weight": "linear.1.weight",
}


def activations() -> dict[str, type[nn.Module]]:
    """By the names that files use: torch's classes in lower case, and some of A1111's own."""
    classes = {
        name.lower(): value
        for name in nn.modules.activation.__all__
        if isinstance(value := getattr(nn.modules.activation, name), type)
    }
    return {**classes, "swish": nn.Hardswish, "linear": nn.Identity}


@dataclass(frozen=True)
class Architecture:
    """How the layers of one hypernetwork are built."""

    structure: Sequence[float] = (1, 2, 1)
    """Widths, as multiples of the context's."""
    activation: str | None = None
    """None and "linear": none."""
    layer_norm: bool = False
    activate_output: bool = True
    dropout: Sequence[float] = ()
    """Share dropped after each width while training; empty: never."""

    @classmethod
    def from_file(cls, stated: Mapping[str, Any]) -> Architecture:
        structure = tuple(stated.get("layer_structure") or (1, 2, 1))
        return cls(
            structure=structure,
            activation=stated.get("activation_func"),
            layer_norm=bool(stated.get("is_layer_norm", False)),
            activate_output=bool(stated.get("activate_output", True)),
            dropout=_dropout(stated, len(structure)),
        )


def _dropout(stated: Mapping[str, Any], length: int) -> Sequence[float]:
    """Positions of dropout layers count in the names of the weights, although nothing is dropped here."""
    given = stated.get("dropout_structure")
    if given is not None:
        return tuple(given)
    if not stated.get("use_dropout", False):
        return ()
    last = DROPOUT if stated.get("last_layer_dropout", False) else 0
    return (0, *([DROPOUT] * (length - 3)), last, 0)


class HypernetworkLayer(nn.Module):
    """x + multiplier * linear(x), for contexts [B, T, width]."""

    def __init__(self, width: int, architecture: Architecture) -> None:
        super().__init__()
        self.multiplier = 1.0
        self.linear = nn.Sequential(*_stack(width, architecture))

    def forward(self, context: Tensor) -> Tensor:
        return context + self.linear(context) * self.multiplier


def _stack(width: int, architecture: Architecture) -> list[nn.Module]:
    widths = [int(width * factor) for factor in architecture.structure]
    known, found = activations(), list[nn.Module]()
    for index in range(len(widths) - 1):
        found.append(nn.Linear(widths[index], widths[index + 1]))
        is_last = index == len(widths) - 2
        if architecture.activation not in (None, "linear") and (architecture.activate_output or not is_last):
            if architecture.activation not in known:
                raise UnusableModel(f"unknown activation {architecture.activation!r}")
            found.append(known[architecture.activation]())
        if architecture.layer_norm:
            found.append(nn.LayerNorm(widths[index + 1]))
        if architecture.dropout and architecture.dropout[index + 1] > 0:
            found.append(nn.Dropout(architecture.dropout[index + 1]))
    return found


@dataclass(frozen=True)
class Hypernetwork:
    """By the width of the context: what changes it for keys, and for values."""

    layers: Mapping[int, tuple[HypernetworkLayer, HypernetworkLayer]]

    @property
    def size(self) -> int:
        """Bytes of one copy of its weights."""
        return sum(p.nbytes for pair in self.layers.values() for layer in pair for p in layer.parameters())


def load_hypernetwork(path: Path, multiplier: float, device: torch.device) -> Hypernetwork:
    """In float32 and without dropout. Raises UnusableModel when the file is broken or no hypernetwork."""
    stated = read_pickle(path)
    if not isinstance(stated, Mapping) or not any(isinstance(key, int) for key in stated):
        raise UnusableModel(f"{path.name} is not a hypernetwork: it has no layers by width")
    try:
        architecture = Architecture.from_file(stated)
        layers = {
            width: (_layer(width, pair[0], architecture), _layer(width, pair[1], architecture))
            for width, pair in stated.items()
            if isinstance(width, int)
        }
    # Whatever a file states may be of any kind.
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise UnusableModel(f"{path.name} is not a usable hypernetwork: {str(error)[:300]}") from error
    except UnusableModel as error:
        raise UnusableModel(f"{path.name} is not a usable hypernetwork: {error.message}") from error
    for pair in layers.values():
        for layer in pair:
            layer.multiplier = multiplier
            layer.to(device)
    return Hypernetwork(layers)


def _layer(width: int, weights: Mapping[str, Tensor], architecture: Architecture) -> HypernetworkLayer:
    layer = HypernetworkLayer(width, architecture)
    layer.load_state_dict({_OLD_NAMES.get(name, name): tensor for name, tensor in weights.items()})
    return layer.float().requires_grad_(False).eval()


class _Projection(nn.Module):
    """Keys or values of a context that hypernetworks change first. Computes theirs in float32, as A1111."""

    def __init__(self, layers: Sequence[HypernetworkLayer], projection: Any) -> None:
        super().__init__()
        self.in_features: int = projection.in_features
        self.layers = nn.ModuleList(layers)
        self.projection = projection

    def forward(self, context: Tensor) -> Tensor:
        for layer in self.layers:
            context = layer(context.float()).to(context.dtype)
        return self.projection(context)


def apply_hypernetworks(twin: Any, hypernetworks: Sequence[Hypernetwork]) -> None:
    """Put them, in their order, before the keys and values of every attention of `twin` whose context fits."""
    with IMPORTING:
        from diffusers.models.attention_processor import Attention
    for attention in [module for module in twin.modules() if isinstance(module, Attention)]:
        width = attention.to_k.in_features
        pairs = [found.layers[width] for found in hypernetworks if width in found.layers]
        if pairs:
            attention.to_k = _Projection([keys for keys, _ in pairs], attention.to_k)
            attention.to_v = _Projection([values for _, values in pairs], attention.to_v)
