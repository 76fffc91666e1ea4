"""Weights that rest in RAM and come to the device while they are used (`--medvram`), or block by block (`--lowvram`).

What rests in RAM stays there: the device gets copies, which are forgotten afterwards, so nothing is ever copied back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sdwebui_api.engine.blocks import Block, room_for


class Visit:
    """The weights of `module` on `device` until `end`. Raises what running out of memory raises, and is over then."""

    def __init__(self, module: nn.Module, device: torch.device, without: Collection[nn.Module] = ()) -> None:
        """`without`: submodules that stay in RAM."""
        self.size = 0
        """Bytes on the device."""
        self._moved: list[tuple[Tensor, Tensor, Tensor]] = []
        try:
            for tensor in _tensors(module, {id(part) for part in without}):
                self._move(tensor, device)
        except BaseException:
            self.end()
            raise

    def _move(self, tensor: Tensor, device: torch.device) -> None:
        home = tensor.data
        away = torch.empty_like(home, device=device)
        away.copy_(home, non_blocking=True)
        tensor.data = away
        self._moved.append((tensor, home, away))
        self.size += away.nbytes

    def end(self) -> None:
        """What was exchanged meanwhile (for another precision) goes home as it is."""
        for tensor, home, away in self._moved:
            untouched = tensor.data_ptr() == away.data_ptr() and tensor.dtype == away.dtype
            tensor.data = home if untouched else tensor.data.to(home.device)
        self._moved.clear()
        self.size = 0


class ModuleMoves:
    """A module that goes to rest in RAM when others need its room on the device (`weights.Moves`)."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module = module
        self._device = device
        self._awake = True

    def rest(self) -> None:
        if self._awake:
            self._move(torch.device("cpu"))
            self._awake = False

    def wake(self) -> None:
        if not self._awake:
            self._move(self._device)
            self._awake = True

    @torch.inference_mode(False)
    def _move(self, place: torch.device) -> None:
        """All of it, or, when memory runs out, nothing."""
        tensors = list(_tensors(self._module, set()))
        block = Block(sum(map(room_for, tensors)), place, pinned=True)
        moved = [block.like(tensor) for tensor in tensors]
        for tensor, target in zip(tensors, moved, strict=True):
            target.copy_(tensor.data, non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        for tensor, target in zip(tensors, moved, strict=True):
            tensor.data = target


class BlockwiseVisit:
    """The blocks of `module` come to `device` one by one as they run, the little that lies between them stays there."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._device = device
        self.largest = 0
        """Bytes that were on the device at once."""
        self._here: dict[int, Visit] = {}
        blocks = blocks_of(module)
        self._rest = Visit(module, device, without=blocks)
        self._hooks: list[Any] = []
        for block in blocks:
            self._hooks.append(block.register_forward_pre_hook(self._come))
            self._hooks.append(block.register_forward_hook(self._go, always_call=True))

    def _come(self, block: nn.Module, inputs: Any) -> None:
        with torch.inference_mode(False):
            self._here[id(block)] = Visit(block, self._device)
        self.largest = max(self.largest, self._rest.size + sum(visit.size for visit in self._here.values()))

    def _go(self, block: nn.Module, inputs: Any, output: Any) -> None:
        visit = self._here.pop(id(block), None)
        if visit is not None:
            with torch.inference_mode(False):
                visit.end()

    def end(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for visit in (*self._here.values(), self._rest):
            visit.end()
        self._here.clear()


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """What runs one after another: the entries of its lists of modules, and of the lists that are in those directly."""
    found: list[nn.Module] = []
    for child in module.children():
        if not isinstance(child, nn.ModuleList):
            found += blocks_of(child)
            continue
        for block in child:
            listed = any(isinstance(part, nn.ModuleList) for part in block.children())
            found += blocks_of(block) if listed else [block]
    return found


def _tensors(module: nn.Module, without: Collection[int]) -> Iterator[Tensor]:
    """Parameters and buffers, each once."""
    seen: set[int] = set()
    waiting = [module]
    while waiting:
        part = waiting.pop()
        if id(part) in without:
            continue
        waiting += part.children()
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor
