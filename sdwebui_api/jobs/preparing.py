"""What waiting jobs will need is got ready while others run, in one thread, for the first few in line."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sdwebui_api.jobs.job import Job, Prepare

log = logging.getLogger(__name__)

LOOK_AHEAD = 4
"""Jobs; what those behind them need might be gone again when their turn comes."""


class Preparation:
    """Works on its own as long as there is something to do. Thread-safe."""

    def __init__(self, waiting: Callable[[], list[Job]]) -> None:
        """`waiting`: the jobs in the order in which they will run."""
        self._waiting = waiting
        self._lock = threading.Lock()
        self._busy = False

    def look(self) -> None:
        """To be called when the line has changed."""
        with self._lock:
            if self._busy or self._next() is None:
                return
            self._busy = True
        threading.Thread(target=self._work, name="prepare", daemon=True).start()

    def _next(self) -> Job | None:
        return next((job for job in self._waiting()[:LOOK_AHEAD] if job.prepare is not None), None)

    def _work(self) -> None:
        while True:
            with self._lock:
                job = self._next()
                if job is None:
                    self._busy = False
                    return
                prepare, job.prepare = job.prepare, None
            self._run(job, prepare)

    @staticmethod
    def _run(job: Job, prepare: Prepare | None) -> None:
        """What goes wrong here goes wrong again when the job runs, and is told then."""
        try:
            if prepare is not None:
                prepare(lambda: not job.live)
        except Exception:
            log.info("job %s could not be prepared while it waits", job.id, exc_info=True)
