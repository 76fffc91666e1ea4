"""Where the time of a job goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Stage = Literal["load", "text", "encode", "sample", "decode", "finish"]
"""Weights; prompts; start images to latents; steps; latents to pictures; scripts, faces and saving."""


class StageClock:
    """Seconds by stage. What is measured inside of another stage does not count for the outer one.

    Used by the job's own thread; others may read `seconds`. On a GPU, which works while Python goes on, the last of
    the steps may count as `decode`, which waits for them.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def timing(self, stage: Stage) -> Iterator[None]:
        self._charge()
        self._open.append(stage)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        now = self._clock()
        if self._open:
            stage = self._open[-1]
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now
