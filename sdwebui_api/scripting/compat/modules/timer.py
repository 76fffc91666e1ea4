"""`modules.timer`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Timer:
    def __init__(self, print_log: bool = False) -> None:
        self.start = time.time()
        self.records: dict[str, float] = {}
        self.total = 0.0

    def elapsed(self) -> float:
        now = time.time()
        passed, self.start = now - self.start, now
        return passed

    def record(self, category: str, extra_time: float = 0, disable_log: bool = False) -> None:
        passed = self.elapsed() + extra_time
        self.records[category] = self.records.get(category, 0.0) + passed
        self.total += passed

    @contextlib.contextmanager
    def subcategory(self, name: str) -> Iterator[None]:
        self.elapsed()
        yield
        self.record(name)

    def summary(self) -> str:
        return f"{self.total:.1f}s"

    def dump(self) -> dict[str, object]:
        return {"total": self.total, "records": self.records}

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]


startup_timer = Timer()
