"""How much memory there is and how it is used, as GET /sdapi/v1/memory reports it; and how much weights may take."""

from __future__ import annotations

from typing import Any

import psutil
import torch

from sdwebui_api.engine.devices import DevicePlan
from sdwebui_api.errors import OutOfMemory

GIB = 2**30
RAM_SHARE = 0.6
GPU_SHARE = 0.7
"""The rest of the memory is left to activations, the system, and other programs."""

NOTHING_TO_ASK_FOR = 256 * 2**20
"""Bytes below which nobody looks at how much is left."""

CELLS_PER_GIB = 2 * 64 * 64
"""Latent area of one forward pass per GiB of device memory: two 512x512 latents, generously estimated for SD1."""


def weights_budget(plan: DevicePlan, min_ram_reserved: float | None) -> int:
    """Bytes that cached weights may take where they are stored. `min_ram_reserved`: GiB of RAM to leave free."""
    total = plan.total_memory()
    if plan.storage.type == "cuda":
        return int(total * GPU_SHARE)
    if min_ram_reserved is not None:
        return max(total - int(min_ram_reserved * GIB), 0)
    return int(total * RAM_SHARE)


def cells_limit(plan: DevicePlan) -> int:
    """Latent area that evaluations of several jobs may have in one forward pass."""
    if plan.device.type == "cuda":
        total = torch.cuda.get_device_properties(plan.device).total_memory
    else:
        total = psutil.virtual_memory().total
    return max(int(total / GIB), 1) * CELLS_PER_GIB


def require(device: torch.device, size: int, what: str) -> None:
    """Raises OutOfMemory when a CPU has less than `size` bytes left for `what`.

    A GPU's allocator raises in time; a CPU's promises what it does not have, and the kernel ends the process.
    """
    if device.type != "cpu" or size < NOTHING_TO_ASK_FOR:
        return
    available = psutil.virtual_memory().available
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
