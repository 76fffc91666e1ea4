"""How much memory there is and how it is used, as GET /sdapi/v1/memory reports it; and how much weights may take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from sdwebui_api.engine.devices import DevicePlan
from sdwebui_api.engine.weights import Room
from sdwebui_api.errors import OutOfMemory

if TYPE_CHECKING:
    from sdwebui_api.config.flags import Flags

GIB = 2**30
RAM_SHARE = 0.6
DEFAULT_RESERVE = 2.0
"""GiB that `--sd-dynamic-cache` leaves free unless `--min-ram-reserved` says otherwise."""
GPU_SHARE = 0.7
"""The rest of the memory is left to activations, the system, and other programs."""

NOTHING_TO_ASK_FOR = 256 * 2**20
"""Bytes below which nobody looks at how much is left."""

CELLS_PER_GIB = 2 * 64 * 64
"""Latent area of one forward pass per GiB of device memory: two 512x512 latents, generously estimated for SD1."""


def weights_room(plan: DevicePlan, flags: Flags) -> Room:
    """For the weights where parts are kept that run on the device as they are."""
    if plan.storage.type == "cuda":
        return Room(int(plan.total_memory() * GPU_SHARE))
    return ram_room(flags)


def resting_room(plan: DevicePlan, flags: Flags) -> Room | None:
    """RAM for parts that a GPU has no room for; None where weights are in RAM anyhow."""
    return ram_room(flags) if plan.storage.type == "cuda" else None


def ram_room(flags: Flags) -> Room:
    """With `--sd-dynamic-cache` or `--min-ram-reserved` all RAM but the reserve, which is left free whoever takes the
    rest; else a share of it."""
    if not flags.sd_dynamic_cache and flags.min_ram_reserved is None:
        return Room(int(ram().total * RAM_SHARE))
    reserved = int((DEFAULT_RESERVE if flags.min_ram_reserved is None else flags.min_ram_reserved) * GIB)
    return Room(max(ram().total - reserved, 0), lambda: ram().available - reserved)


@dataclass(frozen=True)
class Ram:
    """Bytes."""

    total: int
    available: int


def ram(limits: Path = Path("/sys/fs/cgroup")) -> Ram:
    """Of the machine, or of the container that this process may be in (control groups, version 2)."""
    machine = psutil.virtual_memory()
    limit, used, cache = (
        _first_number(limits / name, key)
        for name, key in (("memory.max", ""), ("memory.current", ""), ("memory.stat", "inactive_file"))
    )
    if limit is None or used is None:
        return Ram(machine.total, machine.available)
    free = max(limit - used + (cache or 0), 0)
    return Ram(min(machine.total, limit), min(machine.available, free))


def _first_number(path: Path, key: str) -> int | None:
    """The number in a control file of one value, or behind `key` in one of several; None where there is none."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return None
    value = next((words[-1] for words in lines if words and (not key or words[0] == key)), "")
    return int(value) if value.isdecimal() else None


def cells_limit(plan: DevicePlan) -> int:
    """Latent area that evaluations of several jobs may have in one forward pass."""
    if plan.device.type == "cuda":
        total = torch.cuda.get_device_properties(plan.device).total_memory
    else:
        total = ram().total
    return max(int(total / GIB), 1) * CELLS_PER_GIB


def require(device: torch.device, size: int, what: str) -> None:
    """Raises OutOfMemory when a CPU has less than `size` bytes left for `what`.

    A GPU's allocator raises in time; a CPU's promises what it does not have, and the kernel ends the process.
    """
    if device.type != "cpu" or size < NOTHING_TO_ASK_FOR:
        return
    available = ram().available
    if size > available:
        raise OutOfMemory(
            f"{what} needs about {size / GIB:.1f} GB of memory, {available / GIB:.1f} GB are free; "
            "try a smaller size or batch"
        )


def report(device: torch.device) -> dict[str, Any]:
    """`{"ram": {...}, "cuda": {...}}` in A1111's shape, bytes."""
    return {"ram": _ram(), "cuda": _cuda(device)}


def _ram() -> dict[str, Any]:
    used = psutil.Process().memory_info().rss
    total = float(psutil.virtual_memory().total)
    return {"free": total - used, "used": used, "total": total}


def _cuda(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"error": "unavailable"}
    free, total = torch.cuda.mem_get_info(device)
    statistics = torch.cuda.memory_stats(device)
    peaks = {
        name: {"current": statistics.get(f"{key}.all.current", 0), "peak": statistics.get(f"{key}.all.peak", 0)}
        for name, key in (
            ("active", "active_bytes"),
            ("allocated", "allocated_bytes"),
            ("reserved", "reserved_bytes"),
            ("inactive", "inactive_split_bytes"),
        )
    }
    events = {"retries": statistics.get("num_alloc_retries", 0), "oom": statistics.get("num_ooms", 0)}
    return {"system": {"free": free, "used": total - free, "total": total}, **peaks, "events": events}
