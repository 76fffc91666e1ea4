"""Admission and threads: jobs wait in line and run on a few worker threads.

A job is a plain function of its `Job`. Everything that waits for one waits on the event loop (`Job.result`),
so a thousand waiting clients cost no threads and never delay a control request.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from sdwebui_api.errors import (
    BadRequest,
    Busy,
    Cancelled,
    NotStored,
    OutOfMemory,
    SdWebUIError,
    Unavailable,
)
from sdwebui_api.jobs.job import Job, JobState, Prepare, PreviewSettings
from sdwebui_api.jobs.lines import FairLines, Lines, OneLine, Work
from sdwebui_api.jobs.preparing import Preparation

log = logging.getLogger(__name__)

_NO_BUGS = {
    errno.ENOSPC: "The disk is full: the job could not write a file",
    errno.EDQUOT: "The disk quota is used up: the job could not write a file",
    errno.EROFS: "The disk is read-only: the job could not write a file",
}
"""What no job could write there."""

Observer = Callable[[Job], None]
Key = tuple[str | None, str]
"""(user, id): two users may choose the same id."""


class JobRunner:
    """Runs at most `concurrency` jobs at once; at most `max_queue` more may wait.

    `fair`: users are served in turn, each one's jobs one after the other; otherwise first come, first served.

    Ended jobs are remembered (without their pictures, once those are delivered) until `keep_ended` newer ones
    have ended or `keep_seconds` have passed.
    """

    def __init__(
        self,
        max_queue: int = 100,
        concurrency: int = 1,
        *,
        fair: bool = False,
        keep_ended: int = 256,
        keep_seconds: float = 3600.0,
    ) -> None:
        self.max_queue = max_queue
        self.concurrency = max(1, concurrency)
        self._keep_ended = keep_ended
        self._keep_seconds = keep_seconds
        self._changed = threading.Condition()
        self._waiting: Lines = FairLines(max_queue) if fair else OneLine()
        self._live: OrderedDict[Key, Job] = OrderedDict()
        self._ended: OrderedDict[Key, Job] = OrderedDict()
        self._ending = 0
        """Jobs that are live no more, whose end not everybody has been told of."""
        self._last_started: Job | None = None
        self._idle_workers = 0
        self._workers = 0
        self._draining = False
        self._closed = False
        self._mean_seconds = 0.0
        self._observers: list[Observer] = []
        self._preparation = Preparation(self._queued)

    def observe(self, observer: Observer) -> None:
        """`observer(job)` is called once for every job that has ended, in whichever thread ended it."""
        self._observers.append(observer)

    # -- admission ---------------------------------------------------------------------------------

    def submit(
        self,
        work: Work,
        *,
        kind: str,
        id: str | None = None,
        user: str | None = None,
        summary: str = "",
        preview: PreviewSettings | None = None,
        prepare: Prepare | None = None,
    ) -> Job:
        """Admit `work(job)`. Raises Busy, Unavailable, or BadRequest when `id` names a job that is live.

        One that is winding down gives its id away: a client that hung up or interrupted may send its request again at
        once, under the same id. The new job waits in line as any other; from now on the id is its.

        `prepare`: what may be done for it in another thread while it has to wait.
        """
        job = Job(id or uuid.uuid4().hex, kind, user=user, summary=summary, preview=preview)
        job.prepare = prepare
        with self._changed:
            self._admit(job)
            self._ended.pop(_key(job), None)
            self._live[_key(job)] = job
            self._waiting.append(job, work)
            self._wake_worker()
        self._look_ahead()
        return job

    def check_admission(self, user: str | None = None) -> None:
        """Raises Busy or Unavailable when `submit` would: spares a full server the work of resolving."""
        with self._changed:
            self._refuse_if_full(user)

    def _admit(self, job: Job) -> None:
        self._refuse_if_full(job.user)
        same = self._live.get(_key(job))
        if same is not None and same.winding_down:
            same.known_as = f"{same.id} until {uuid.uuid4().hex}"
            self._live = OrderedDict((_key(one), one) for one in self._live.values())
        elif same is not None:
            raise BadRequest(f"A job with the id {job.id!r} is waiting or running already", field="force_task_id")

    def _refuse_if_full(self, user: str | None) -> None:
        if self._draining:
            raise Unavailable("The server is shutting down")
        if self._waiting.full_for(user):
            raise Busy("As many requests of yours are waiting as may", retry_after=self._retry_after())
        waiting = len(self._waiting) - max(0, self.concurrency - self.running)
        if waiting >= self.max_queue:
            raise Busy(f"{len(self._waiting)} requests are waiting already", retry_after=self._retry_after())

    def _retry_after(self) -> float:
        """When a place will be free, judged by the jobs of late: whole seconds, at least one."""
        return float(max(1, round(self._mean_seconds / self.concurrency)))

    @property
    def running(self) -> int:
        return len(self._live) - len(self._waiting)

    # -- looking -----------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        return self._draining

    def jobs(self) -> list[Job]:
        """Every job that is known: the live ones in the order of admission, then the ended, newest first."""
        with self._changed:
            self._drop_old()
            return [*self._live.values(), *reversed(self._ended.values())]

    def live_jobs(self) -> list[Job]:
        """Running and waiting jobs in the order of admission."""
        with self._changed:
            return list(self._live.values())

    def _look_ahead(self) -> None:
        """Jobs that have to wait are prepared; not those that a thread takes up at once."""
        if len(self._live) > self.concurrency:
            self._preparation.look()

    def _queued(self) -> list[Job]:
        with self._changed:
            return [job for job in self._live.values() if job.state == "queued"]

    def get(self, id: str, user: str | None = None) -> Job | None:
        """The job that `user` calls `id`."""
        with self._changed:
            self._drop_old()
            return self._live.get((user, id)) or self._ended.get((user, id))

    def position(self, job: Job) -> int | None:
        """How many jobs of those that wait will be begun before this one; None when it does not wait."""
        with self._changed:
            return self._waiting.position(job)

    def last_started(self) -> Job | None:
        return self._last_started

    # -- stopping ----------------------------------------------------------------------------------

    def cancel(self, job: Job) -> bool:
        """A waiting job leaves the line at once, a running one ends at its next step. False: it had ended."""
        with self._changed:
            if not job.live:
                return False
            job._cancel()
            if not self._remove_waiting(job):
                return True
        self._end(job, "cancelled", error=Cancelled(f"Job {job.id} was cancelled"))
        return True

    def interrupt(self, job: Job) -> bool:
        """A running job ends with what it has; one that waits has nothing yet and is cancelled."""
        if job.state == "queued":
            return self.cancel(job)
        job.interrupt()
        return job.live

    def drain(self, timeout: float) -> bool:
        """Admit nothing more and wait for all jobs; after `timeout` seconds cancel the rest. Blocks.

        True: every job ended by itself.
        """
        with self._changed:
            self._draining = True
            in_time = self._changed.wait_for(self._is_idle, timeout)
            left = list(self._live.values())
        for job in reversed(left):
            log.warning("job %s is cancelled: the server shuts down", job.id)
            self.cancel(job)
        with self._changed:
            self._changed.wait_for(self._is_idle, 10.0)
            self._closed = True
            self._changed.notify_all()
        return in_time

    def _is_idle(self) -> bool:
        """No job is left, and those that were have told everybody of their end."""
        return not self._live and not self._ending

    def _remove_waiting(self, job: Job) -> bool:
        removed = self._waiting.remove(job)
        if removed:
            self._retire(job)
        return removed

    # -- working -----------------------------------------------------------------------------------

    def _wake_worker(self) -> None:
        """A new thread only when all are busy and there may be more of them."""
        if self._idle_workers < len(self._waiting) and self._workers < self.concurrency:
            self._workers += 1
            threading.Thread(target=self._work, name=f"job-{self._workers}", daemon=True).start()
        self._changed.notify()

    def _work(self) -> None:
        while (entry := self._next()) is not None:
            job, work = entry
            self._run(job, work)
            del entry, job, work

    def _next(self) -> tuple[Job, Work] | None:
        with self._changed:
            self._idle_workers += 1
            self._changed.wait_for(lambda: self._waiting.next_ready or self._closed)
            self._idle_workers -= 1
            entry = self._waiting.take()
            if entry is not None:
                self._last_started = entry[0]
                entry[0]._begin()
            return entry

    def _run(self, job: Job, work: Work) -> None:
        self._look_ahead()
        value, error = _outcome(job, work)
        self._measure(job)
        with self._changed:
            self._waiting.ended(job)
            self._retire(job)
        if job.cancelled:
            self._end(job, "cancelled", error=Cancelled(f"Job {job.id} was cancelled"))
        elif error is not None:
            self._end(job, "cancelled" if isinstance(error, Cancelled) else "failed", error=error)
        else:
            self._end(job, "done", value=value)

    def _end(self, job: Job, state: JobState, *, value: Any = None, error: SdWebUIError | None = None) -> None:
        """After `_retire`, without the lock: listeners and observers may take their time."""
        job._finish(state, value=value, error=error)
        self._tell(job)
        with self._changed:
            self._ending -= 1
            self._changed.notify_all()

    def _tell(self, job: Job) -> None:
        for observer in self._observers:
            try:
                observer(job)
            except Exception:
                log.exception("job %s has ended, but %r failed", job.id, observer)

    def _measure(self, job: Job) -> None:
        seconds = time.time() - (job.started or time.time())
        self._mean_seconds = seconds if self._mean_seconds == 0 else 0.8 * self._mean_seconds + 0.2 * seconds

    def _retire(self, job: Job) -> None:
        self._live.pop(_key(job), None)
        self._ending += 1
        self._ended[_key(job)] = job
        self._drop_old()
        self._changed.notify_all()

    def _drop_old(self) -> None:
        horizon = time.time() - self._keep_seconds
        while self._ended:
            oldest = next(iter(self._ended.values()))
            if len(self._ended) <= self._keep_ended and (oldest.finished or time.time()) > horizon:
                return
            self._ended.popitem(last=False)


def _key(job: Job) -> Key:
    return job.user, job.known_as


def _outcome(job: Job, work: Work) -> tuple[Any, SdWebUIError | None]:
    """Run the job; whatever it raises becomes one of our errors, so the thread always survives."""
    try:
        job.check()
        return work(job), None
    except SdWebUIError as error:
        # The traceback would keep the job's frames, and with them its tensors, for as long as the job is remembered.
        # So would that of the error behind it.
        error.__context__ = error.__cause__ = None
        return None, error.with_traceback(None)
    except BaseException as error:  # a script's `exit()` too
        if _is_out_of_memory(error):
            log.error("job %s ran out of memory: %s", job.id, error)
            return None, OutOfMemory("There is not enough memory for this request; try a smaller size or batch")
        if isinstance(error, OSError) and error.errno in _NO_BUGS:
            log.error("job %s could not write a file: %s", job.id, error)
            return None, NotStored(_NO_BUGS[error.errno])
        log.exception("job %s failed", job.id)
        return None, SdWebUIError(f"The job failed ({type(error).__name__}); the log tells more under its id {job.id}")


def _is_out_of_memory(error: BaseException) -> bool:
    """torch's error without importing torch; its CPU allocator raises a plain RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
