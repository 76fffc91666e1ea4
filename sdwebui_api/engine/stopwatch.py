"""How long the device works on something. A GPU works on after it was told what to do, and nobody waits to find out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch


class Stopwatch:
    """Seconds of work on one device. Not thread-safe: call while holding the device."""

    def __init__(self, device: torch.device | None = None) -> None:
        """`device`: None stands for a CPU."""
        self._device = device if device is not None and device.type == "cuda" else None
        self._running: deque[tuple[Any, Any, Callable[[float], None]]] = deque()

    def start(self) -> Any:
        """A moment for `stop`."""
        if self._device is None:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def stop(self, started: Any, tell: Callable[[float], None]) -> None:
        """What was asked of the device since `started` took so many seconds: `tell` hears it at once, or, from a GPU,
        in a later call. What `tell` holds on to stays in memory until then."""
        if self._device is None:
            tell(time.monotonic() - started)
            return
        self._running.append((started, self.start(), tell))
        while self._running and self._running[0][1].query():
            first, last, tell = self._running.popleft()
            tell(first.elapsed_time(last) / 1000)
