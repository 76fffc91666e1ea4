"""Modules get their weights: one buffer for all of a part, filled tensor by tensor, without a second copy in memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sdwebui_api.engine.blocks import ALIGNMENT, Block
from sdwebui_api.engine.families.base import Assembly
from sdwebui_api.engine.feed_forward import keep_feed_forwards_small
from sdwebui_api.engine.float8 import keep_in_float8
from sdwebui_api.engine.mapped import MappedReader
from sdwebui_api.engine.packed import keep_packed, packed
from sdwebui_api.engine.scaled import full, scale_of
from sdwebui_api.errors import UnusableModel

log = logging.getLogger(__name__)

Tell = Callable[[float], None]
"""Is told which share of a part, 0 to 1, has been loaded."""

WORTH_TELLING = 256 * 2**20
"""Bytes; below, a part is there before anybody has read a word about it."""


@dataclass(frozen=True)
class Weights:
    """Where a part's weights go."""

    dtype: torch.dtype
    device: torch.device
    channels_last: bool = False
    float8: bool = False
    """Linear and convolution weights are kept in float8_e4m3fn and computed with in `dtype`."""
    keep_half: bool = False
    """Beside float8: the float16 weights stay in RAM, for LoRAs to be merged into."""
    pinned: bool = False
    """In RAM that a GPU can read by itself: the part visits it while it is used."""
    packed: bool = False
    """Linear and convolution weights are kept as the CPU multiplies them (`packed.py`). Not together with `float8`."""


@dataclass(frozen=True)
class _Place:
    """A tensor to be filled, and from what."""

    name: str
    source: Tensor
    dtype: torch.dtype
    channels_last: bool
    packing: nn.Module | None = None
    """The layer that wants it packed."""
    scale: Tensor | None = None

    @property
    def size(self) -> int:
        used = self.source.numel() * self.dtype.itemsize
        return -(-used // ALIGNMENT) * ALIGNMENT


def materialise(
    assembly: Assembly, weights: Weights, part: str, tell: Tell | None = None, without: Sequence[str] = ()
) -> Any:
    """Fill the module without memory with copies of its tensors, converted one by one.

    `without`: children that are looked at like the others, but left out (None).
    Nothing goes on using a mapped file: whoever shortened it would end the process (SIGBUS).
    Raises UnusableModel when tensors are missing or have the wrong shape. Superfluous ones are left out.
    """
    module = assembly.module
    _check(module.state_dict(), assembly.tensors, part)
    for name in without:
        setattr(module, name, None)
    wanted: Mapping[str, Tensor] = module.state_dict()
    packing: dict[str, nn.Module] = {}
    if weights.packed:
        packing = keep_packed(module)
        keep_feed_forwards_small(module)
    in_float8 = keep_in_float8(module, assembly.tensors, weights.keep_half) if weights.float8 else frozenset[str]()
    places = [
        _Place(
            name,
            assembly.tensors[name],
            torch.float8_e4m3fn if name in in_float8 else weights.dtype,
            weights.channels_last and assembly.tensors[name].ndim == 4,
            packing.get(name),
            scale_of(name, assembly.tensors),
        )
        for name in wanted
    ]
    started = time.perf_counter()
    filled = _fill(places, weights, tell)
    module.load_state_dict(filled, strict=True, assign=True)
    module.to(weights.device)  # buffers that no file holds
    size, seconds = tensors_nbytes(filled.values()), time.perf_counter() - started
    level = logging.INFO if size >= WORTH_TELLING else logging.DEBUG
    log.log(level, "%s: %.2f GB in %.1f s", part, size / 1e9, seconds)
    return module.requires_grad_(False).eval()


def _check(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], part: str) -> None:
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise UnusableModel(f"{len(missing)} tensors of the {part} are missing, e.g. {missing[0]!r}")
    for name, place in wanted.items():
        if tensors[name].shape != place.shape:
            raise UnusableModel(
                f"tensor {name!r} of the {part} is {list(tensors[name].shape)} instead of {list(place.shape)}"
            )
        if place.is_floating_point() and not tensors[name].is_floating_point():
            kind = str(tensors[name].dtype).removeprefix("torch.")
            raise UnusableModel(f"tensor {name!r} of the {part} is {kind}: quantised weights are not supported")


def _fill(places: Iterable[_Place], weights: Weights, tell: Tell | None) -> dict[str, Tensor]:
    filled: dict[str, Tensor] = {}
    places = list(places)
    # One block for all that stays as it is read, and room to read one of those in that are packed.
    block = Block(sum(place.size for place in places if place.packing is None), weights.device, pinned=weights.pinned)
    largest = max((place.size for place in places if place.packing is not None), default=0)
    room = torch.empty(largest, dtype=torch.uint8, device=weights.device)
    report, done = _reporting(tell, sum(place.size for place in places)), 0
    with MappedReader(weights.device) as reader, torch.no_grad():
        for place in sorted(places, key=lambda place: reader.position(place.source)):
            if place.packing is None:
                target = _view(block.take(place.size), place)
            else:
                target = _view(room, place)
            reader.copy(full(place.source, place.scale), target)
            filled[place.name] = target if place.packing is None else packed(place.packing, target)
            done += place.size
            report(done)
    return filled


def _view(buffer: Tensor, place: _Place) -> Tensor:
    shape = place.source.shape
    values = buffer[: place.source.numel() * place.dtype.itemsize].view(place.dtype)
    if place.channels_last:
        batch, channels, height, width = shape
        return values.view(batch, height, width, channels).permute(0, 3, 1, 2)
    return values.view(shape)


def _reporting(tell: Tell | None, total: int) -> Callable[[int], None]:
    """Tells every tenth of a part that takes a moment."""
    told = [0]

    def report(done: int) -> None:
        tenth = done * 10 // max(total, 1)
        if tell is not None and total >= WORTH_TELLING and tenth > told[0]:
            told[0] = tenth
            tell(tenth / 10)

    return report


def tensors_nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
