"""Adding LoRAs to one network of a checkpoint: the layers they change get new weights in a twin of its modules."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sdwebui_api.catalog.networks import LoraFile
from sdwebui_api.engine.networks.families import layer_delta
from sdwebui_api.engine.networks.names import Part, part_of
from sdwebui_api.engine.networks.reading import read_layers
from sdwebui_api.errors import UnusableModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Strength:
    """One LoRA as it counts for one network."""

    file: LoraFile
    multiplier: float
    dyn: int | None = None


class Layers(Protocol):
    def find(self, layer: str) -> str | None:
        """Our module for a layer as a file names it."""
        ...


@dataclass(frozen=True)
class _Change:
    source: Strength
    leaves: dict[str, Tensor]


@dataclass
class MergePlan:
    """Which of a network's modules change by what, before anything is computed. Holds views of the mapped files."""

    changes: dict[str, list[_Change]] = field(default_factory=dict)
    unmatched: Counter[str] = field(default_factory=Counter)
    """LoRA name -> layers of it that this network does not have."""
    matched: Counter[str] = field(default_factory=Counter)

    def size(self, module: nn.Module) -> int:
        """Bytes that the changed weights will take."""
        changed = (module.get_submodule(name) for name in self.changes)
        return sum(tensor.nbytes for layer in changed for tensor in layer.parameters(recurse=False))


def plan_merge(part: Part, sources: Sequence[Strength], layers: Layers) -> MergePlan:
    """Reads the files. Raises UnusableModel when one is broken."""
    plan = MergePlan()
    for source in sources:
        for name, leaves in read_layers(source.file).items():
            if part_of(name) != part:
                continue
            found = layers.find(name)
            if found is None:
                plan.unmatched[source.file.name] += 1
            else:
                plan.matched[source.file.name] += 1
                plan.changes.setdefault(found, []).append(_Change(source, leaves))
    return plan


def merge(twin: Any, plan: MergePlan, storage: torch.device) -> list[str]:
    """Give the planned modules of `twin` weights of their own: original + multiplier * difference, in their order.

    Computed in float32 and rounded once to the weight's precision. A layer that does not fit is left as it is, as in
    A1111. Returns, in words, what did not fit. Run without autograd.
    """
    misfits: Counter[str] = Counter()
    for name, changes in plan.changes.items():
        layer = twin.get_submodule(name)
        weight, bias = _changed(layer, changes, misfits)
        # New parameters, not new contents: the old ones belong to the checkpoint.
        layer.weight = _parameter(weight, layer.weight, storage)
        if bias is not None:
            layer.bias = _parameter(bias, layer.bias if layer.bias is not None else layer.weight.new_empty(0), storage)
    return _problems(plan, misfits)


def _changed(layer: Any, changes: Sequence[_Change], misfits: Counter[str]) -> tuple[Tensor, Tensor | None]:
    weight = layer.weight.detach().to(torch.float32, copy=True)
    bias: Tensor | None = None
    for change in changes:
        source = change.source
        try:
            delta = layer_delta(change.leaves, weight, source.dyn)
        except UnusableModel as error:
            misfits[source.file.name] += 1
            log.debug("%s: %s", source.file.name, error.message)
            continue
        weight.add_(_widened(delta.weight, weight), alpha=source.multiplier)
        if delta.bias is not None:
            old = bias if bias is not None else _bias_of(layer, len(weight))
            bias = old + delta.bias.reshape(old.shape).to(old) * source.multiplier
    return weight, bias


def _bias_of(layer: Any, width: int) -> Tensor:
    if layer.bias is not None:
        return layer.bias.detach().float()
    return torch.zeros(width, device=layer.weight.device)


def _widened(change: Tensor, weight: Tensor) -> Tensor:
    """Nothing for the mask and image channels of an inpainting model's first convolution."""
    missing = weight.shape[1] - change.shape[1] if weight.ndim == 4 else 0
    return nn.functional.pad(change, (0, 0, 0, 0, 0, missing)) if missing else change


def _parameter(values: Tensor, like: Tensor, storage: torch.device) -> nn.Parameter:
    """In the precision and memory layout of `like`."""
    placed = values.to(storage, like.dtype)
    if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last):
        placed = placed.contiguous(memory_format=torch.channels_last)
    return nn.Parameter(placed, requires_grad=False)


def _problems(plan: MergePlan, misfits: Counter[str]) -> list[str]:
    found = [f"LoRA {name}: {count} layers do not fit this checkpoint" for name, count in misfits.items()]
    for name, count in plan.unmatched.items():
        log.info("LoRA %s: %d layers are unknown to this checkpoint", name, count)
        if not plan.matched[name]:
            found.append(f"LoRA {name}: none of its {count} layers is known to this checkpoint")
    return found
