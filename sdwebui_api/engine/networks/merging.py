"""Adding LoRAs to one network of a checkpoint: the layers they change get new weights in a twin of its modules."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sdwebui_api.catalog.networks import LoraFile
from sdwebui_api.engine.blocks import Block, room_for
from sdwebui_api.engine.float8 import STORAGE, clamped, full_weight
from sdwebui_api.engine.networks.families import LowRank, layer_delta, low_rank
from sdwebui_api.engine.networks.names import Part, part_of
from sdwebui_api.engine.networks.reading import LoraLayers, read_layers
from sdwebui_api.engine.packed import packed, packs
from sdwebui_api.engine.packed_sums import packed_sum
from sdwebui_api.errors import UnusableModel

log = logging.getLogger(__name__)

CHUNK, CHUNK_ON_GPU = 2**19, 2**24
"""Numbers that are computed with at a time: what a processor's cache holds, and what keeps a GPU busy."""


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


def plan_merge(
    part: Part, sources: Sequence[Strength], layers: Layers, read: Callable[[LoraFile], LoraLayers] = read_layers
) -> MergePlan:
    """`read` gives the layers of a file. Raises UnusableModel when one is broken."""
    plan = MergePlan()
    for source in sources:
        for name, leaves in read(source.file).items():
            if part_of(name) != part:
                continue
            found = layers.find(name)
            if found is None:
                plan.unmatched[source.file.name] += 1
            else:
                plan.matched[source.file.name] += 1
                plan.changes.setdefault(found, []).append(_Change(source, leaves))
    return plan


def merge(twin: Any, plan: MergePlan, device: torch.device, storage: torch.device) -> list[str]:
    """Give the planned modules of `twin` weights of their own: original + multiplier * difference, in their order.

    Computed on `device` in float32, rounded once to the weight's precision, kept on `storage`; the factors of a plain
    LoRA are rounded too where the weight is bfloat16. A layer that does not fit is left as it is, as in A1111.
    Returns, in words, what did not fit. Run without autograd.
    """
    misfits: Counter[str] = Counter()
    changed = [twin.get_submodule(name) for name in plan.changes]
    room = Block(sum(room_for(layer.weight) for layer in changed if not packs(layer)), storage, pinned=True)
    workspace = torch.empty(CHUNK_ON_GPU if device.type == "cuda" else CHUNK, device=device)
    for layer, changes in zip(changed, plan.changes.values(), strict=True):
        # New parameters, not new contents: the old ones belong to the checkpoint.
        factors = _factors(layer.weight, changes, device)
        if factors is not None and (total := _packed_sum(layer, factors)) is not None:
            layer.weight = nn.Parameter(total, requires_grad=False)
            continue
        original = full_weight(layer)
        weight = torch.empty_like(original) if packs(layer) else room.like(layer.weight)
        bias: Tensor | None = None
        if factors is not None:
            _add_products(original, factors, weight, workspace)
        else:
            values, bias = _changed(layer, original, changes, misfits, device)
            weight.copy_(clamped(values, weight.dtype))
        layer.weight = nn.Parameter(packed(layer, weight) if packs(layer) else weight, requires_grad=False)
        if bias is not None:
            layer.bias = _bias_parameter(bias, layer, storage)
    return _problems(plan, misfits)


def _factors(original: Tensor, changes: Sequence[_Change], device: torch.device) -> list[tuple[float, LowRank]] | None:
    """Strengths and factors, when plain LoRAs are all that changes a layer with this weight."""
    found = []
    for change in changes:
        factors = low_rank(change.leaves, original, change.source.dyn)
        if factors is None:
            return None
        moved = LowRank(factors.up.to(device), factors.down.to(device))
        found.append((change.source.multiplier, moved))
    return found


def _packed_sum(layer: nn.Module, factors: Sequence[tuple[float, LowRank]]) -> Tensor | None:
    """The layer's packed weight and the products, packed; None where that takes unpacking it."""
    weight: Any = layer.weight
    if not weight.is_mkldnn or weight.ndim != 2:
        return None
    [(_, product)] = _rounded(factors)
    return packed_sum(weight.detach(), product.up, product.down)


def _add_products(
    original: Tensor, factors: Sequence[tuple[float, LowRank]], target: Tensor, workspace: Tensor
) -> None:
    """`target` = `original` [out, …] + the products, a few rows at a time: no large tensor in float32 is made."""
    width = original[0].numel()
    if width > len(workspace):
        workspace = original.new_empty(width, dtype=torch.float32)
    step = len(workspace) // width
    in_place = target.dtype in _ADDED_IN_PLACE and target.is_contiguous() and target.device == workspace.device
    products = _rounded(factors) if in_place and target.dtype == torch.bfloat16 else factors
    for first in range(0, len(original), step):
        rows, goal = original[first : first + step], target[first : first + step]
        values = (goal if in_place else workspace[: rows.numel()]).view(len(rows), width)
        values.view(rows.shape).copy_(rows)
        for strength, product in products:
            values.addmm_(product.up[first : first + step], product.down, alpha=strength)
        if not in_place:
            goal.copy_(clamped(values.view(rows.shape), target.dtype))


_ADDED_IN_PLACE = (torch.float32, torch.bfloat16)
"""Precisions whose products are added in float32 to the weight as it is. Small factors would vanish in float16."""


def _rounded(factors: Sequence[tuple[float, LowRank]]) -> list[tuple[float, LowRank]]:
    """The same as one product of bfloat16 factors: their sum is rounded once, and no weight is widened."""
    up = torch.cat([product.up * strength for strength, product in factors], dim=1)
    down = torch.cat([product.down for _, product in factors])
    return [(1.0, LowRank(up.bfloat16(), down.bfloat16()))]


def _changed(
    layer: Any, original: Tensor, changes: Sequence[_Change], misfits: Counter[str], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    weight = original.to(device, torch.float32, copy=True)
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
            old = bias if bias is not None else _bias_of(layer, weight)
            bias = old + delta.bias.reshape(old.shape).to(old) * source.multiplier
    return weight, bias


def _bias_of(layer: Any, weight: Tensor) -> Tensor:
    """float32, beside `weight`."""
    return torch.zeros(len(weight), device=weight.device) if layer.bias is None else layer.bias.detach().to(weight)


def _widened(change: Tensor, weight: Tensor) -> Tensor:
    """Nothing for the mask and image channels of an inpainting model's first convolution."""
    missing = weight.shape[1] - change.shape[1] if weight.ndim == 4 else 0
    return nn.functional.pad(change, (0, 0, 0, 0, 0, missing)) if missing else change


def _bias_parameter(bias: Tensor, layer: Any, storage: torch.device) -> nn.Parameter:
    """In the precision that layers compute in: that of a bias there was, or of the weight."""
    like = layer.weight if layer.bias is None else layer.bias
    dtype = torch.float16 if like.dtype == STORAGE else like.dtype
    return nn.Parameter(bias.to(storage, dtype), requires_grad=False)


def _problems(plan: MergePlan, misfits: Counter[str]) -> list[str]:
    found = [f"LoRA {name}: {count} layers do not fit this checkpoint" for name, count in misfits.items()]
    for name, count in plan.unmatched.items():
        log.info("LoRA %s: %d layers are unknown to this checkpoint", name, count)
        if not plan.matched[name]:
            found.append(f"LoRA {name}: none of its {count} layers is known to this checkpoint")
        elif count > plan.matched[name]:  # of another family, whose layers partly have the same names
            found.append(f"LoRA {name}: {count} layers are unknown to this checkpoint")
    return found
