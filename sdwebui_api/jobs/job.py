"""One request while it waits and runs: its state, its progress, and the ways to stop it.

The thread that does the work calls `set_total`, `start_batch`, `step` and `next_part`; any other thread may
read `snapshot()`, ask for a preview, or call `interrupt`, `skip` and `cancel`. The numbers are A1111's
(`modules/shared_state.py`, `modules/progress.py`), but they belong to the job and not to the process.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sdwebui_api.errors import Cancelled, SdWebUIError
from sdwebui_api.jobs.stages import StageClock

if TYPE_CHECKING:
    from PIL import Image

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
PreviewMaker = Callable[[], "Image.Image"]
Prepare = Callable[[Callable[[], bool]], None]
"""Gets ready what a job will need. Is given a function that says whether nobody waits for it any more."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreviewSettings:
    """The options `live_previews_enable`, `show_progress_every_n_steps`, `live_previews_image_format`."""

    enabled: bool = True
    every_n_steps: int = 10
    """-1: no previews at all (A1111's meaning)."""
    image_format: str = "png"

    @property
    def wanted(self) -> bool:
        return self.enabled and self.every_n_steps != -1


@dataclass(frozen=True)
class Preview:
    """A live preview, encoded. `number` grows by one with every new picture."""

    number: int
    step: int
    data: bytes


@dataclass(frozen=True)
class Progress:
    """A consistent copy of a job's numbers."""

    job: str
    """A1111's title of what runs: `scripts_txt2img`, `Batch 1 out of 2`."""
    job_count: int
    """How many passes there will be; -1 until the generator knows."""
    job_no: int
    sampling_step: int
    sampling_steps: int
    job_timestamp: str
    skipped: bool
    interrupted: bool
    textinfo: str | None
    elapsed: float
    """Seconds since the job began to run."""

    @property
    def fraction(self) -> float:
        """[0, 1]: how much of the work is done, as `/internal/progress` counts."""
        if self.job_count <= 0:
            return 0.0
        within = self.sampling_step / self.sampling_steps if self.sampling_steps > 0 else 0.0
        return min((self.job_no + within) / self.job_count, 1.0)

    @property
    def progress(self) -> float:
        """What `/sdapi/v1/progress` answers for a job that runs: never below 0.01."""
        passes = self.job_no / self.job_count if self.job_count > 0 else 0.0
        within = 0.0
        if self.job_count > 0 and self.sampling_steps > 0:
            within = 1 / self.job_count * self.sampling_step / self.sampling_steps
        return min(0.01 + passes + within, 1.0)

    @property
    def eta_relative(self) -> float:
        """Seconds that are left, if the rest goes as the part that is done."""
        return max(self.elapsed / self.progress - self.elapsed, 0.0)


@dataclass
class _Numbers:
    job: str = ""
    job_count: int = -1
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0
    textinfo: str | None = None


@dataclass
class _PreviewSlot:
    """The newest picture that could be drawn, and the newest that was."""

    maker: PreviewMaker | None = None
    step: int = 0
    drawn: Preview | None = None
    drawn_at: int = 0
    drawing: threading.Lock = field(default_factory=threading.Lock)


class Job:
    """A unit of work with an id. Made by `JobRunner.submit`."""

    def __init__(
        self,
        id: str,
        kind: str,
        *,
        user: str | None = None,
        summary: str = "",
        preview: PreviewSettings | None = None,
    ) -> None:
        self.id = id
        self.known_as = id
        """What the runner finds it by: its id, until another job takes that over."""
        self.kind = kind
        self.user = user
        self.summary = summary
        self.preview_settings = preview or PreviewSettings()
        self.created = time.time()
        self.started: float | None = None
        self.finished: float | None = None
        self.state: JobState = "queued"
        self.error: SdWebUIError | None = None
        self.prepare: Prepare | None = None
        """What can be done for it while it waits; None: nothing, or it has been begun."""
        self.stages = StageClock()
        self.pictures = 0
        """Made so far, grids and masks not counted; only the job's own thread counts."""
        self._lock = threading.Lock()
        self._numbers = _Numbers(job=f"scripts_{kind}")
        self._previews = _PreviewSlot()
        self._interrupted = self._skipped = self._cancelled = False
        self._ended = threading.Event()
        self._value: Any = None
        self._listeners: list[Callable[[], None]] = []

    # -- for the thread that does the work ---------------------------------------------------------

    def set_total(self, job_count: int) -> None:
        """How many passes there will be: batches, times two with a hires pass."""
        with self._lock:
            self._numbers.job_count = job_count
        self._notify()

    def start_batch(self, title: str | None, sampling_steps: int) -> None:
        """A pass begins. `title`: A1111's ("Batch 1 out of 2"); None leaves the title as it is."""
        self.check()
        with self._lock:
            if title is not None:
                self._numbers.job = title
            self._numbers.sampling_step = 0
            self._numbers.sampling_steps = sampling_steps
        self._notify()

    def next_part(self) -> None:
        """A pass is over (A1111's `state.nextjob`)."""
        with self._lock:
            self._numbers.job_no += 1
            self._numbers.sampling_step = 0
            self._previews.maker = None
            self._previews.step = self._previews.drawn_at = 0
        self._notify()

    def step(self, step: int, preview: PreviewMaker | None = None) -> None:
        """`step` sampling steps of this pass are done. Raises Cancelled when the job was cancelled.

        `preview` draws the picture as it is now (RGB, any size). It is kept, not called: only a client that
        asks for the progress pays for a picture, and in another thread than this one.
        """
        self.check()
        with self._lock:
            self._numbers.sampling_step = step
            if preview is not None and self.preview_settings.wanted:
                self._previews.maker = preview
                self._previews.step = step
        self._notify()

    def set_text(self, text: str | None) -> None:
        """A line for the waiting client, such as what is being loaded (`textinfo`)."""
        with self._lock:
            self._numbers.textinfo = text
        self._notify()

    def check(self) -> None:
        """Raises Cancelled when the job was cancelled. Cheap; to be called between stages."""
        if self._cancelled:
            raise Cancelled(f"Job {self.id} was cancelled")

    @property
    def interrupted(self) -> bool:
        """Finish now and return what there is."""
        return self._interrupted

    @property
    def skipped(self) -> bool:
        """End this batch and go on with the next one; `clear_skip` once that is done."""
        return self._skipped

    @property
    def should_stop(self) -> bool:
        """The sampling loop should end here: interrupted or skipped."""
        return self._interrupted or self._skipped

    @property
    def winding_down(self) -> bool:
        """Somebody has ended it early: what is left of it takes no longer than a step."""
        return self._cancelled or self._interrupted

    def clear_skip(self) -> None:
        self._skipped = False

    # -- for everybody else ------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    @property
    def live(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def job_timestamp(self) -> str:
        """A1111's form of the time when the job began, e.g. 20240701075825."""
        return time.strftime("%Y%m%d%H%M%S", time.localtime(self.started or self.created))

    def interrupt(self) -> None:
        self._interrupted = True
        self._notify()

    def skip(self) -> None:
        self._skipped = True
        self._notify()

    def snapshot(self) -> Progress:
        with self._lock:
            numbers = self._numbers
            elapsed = (self.finished or time.time()) - self.started if self.started else 0.0
            return Progress(
                job=numbers.job,
                job_count=numbers.job_count,
                job_no=numbers.job_no,
                sampling_step=numbers.sampling_step,
                sampling_steps=numbers.sampling_steps,
                job_timestamp=self.job_timestamp,
                skipped=self._skipped,
                interrupted=self._interrupted,
                textinfo=numbers.textinfo,
                elapsed=elapsed,
            )

    def last_preview(self) -> Preview | None:
        """The newest picture that somebody had drawn; never waits."""
        return self._previews.drawn if self.live else None

    @property
    def preview_due(self) -> bool:
        """Enough steps have passed since the last picture for a new one."""
        slot = self._previews
        if not self.live or slot.maker is None:
            return False
        fresh = slot.drawn is None or slot.drawn_at == 0
        return fresh or slot.step - slot.drawn_at >= self.preview_settings.every_n_steps

    def draw_preview(self, encode: Callable[[Image.Image, str], bytes]) -> Preview | None:
        """The newest picture, drawn now if enough steps passed since the last one. Blocks while drawing.

        `encode(image, format)` makes the bytes. A preview that cannot be drawn never harms the job.
        """
        slot = self._previews
        with slot.drawing:
            with self._lock:
                maker, step = slot.maker, slot.step
            if maker is None or not self.preview_due:
                return self.last_preview()
            try:
                data = encode(maker(), self.preview_settings.image_format)
            except Exception:
                log.warning("job %s: no preview of step %d", self.id, step, exc_info=True)
                return self.last_preview()
            slot.drawn = Preview((slot.drawn.number if slot.drawn else 0) + 1, step, data)
            slot.drawn_at = step
            return slot.drawn

    def add_listener(self, listener: Callable[[], None]) -> Callable[[], None]:
        """`listener()` is called, from whichever thread, after every change. Returns what removes it."""
        with self._lock:
            self._listeners.append(listener)

        def remove() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return remove

    async def result(self) -> Any:
        """Waits on the event loop, without a thread, for the end; returns the value or raises the error.

        The value is handed out once and then forgotten by the job, so that kept jobs hold no pictures.
        """
        await self._end_on_loop()
        return self._take()

    def wait(self, timeout: float | None = None) -> Any:
        """`result()` for threads. Raises TimeoutError."""
        if not self._ended.wait(timeout):
            raise TimeoutError(f"Job {self.id} has not ended after {timeout} s")
        return self._take()

    def _take(self) -> Any:
        if self.error is not None:
            # A copy: the traceback of the raised one holds the waiting request, which must not live as long as the job.
            raise copy.copy(self.error)
        value, self._value = self._value, None
        return value

    async def _end_on_loop(self) -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def wake() -> None:
            if self._ended.is_set():
                call_on(loop, ended.set)

        remove = self.add_listener(wake)
        try:
            if not self._ended.is_set():
                await ended.wait()
        finally:
            remove()

    def _notify(self) -> None:
        if not self._listeners:
            return
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    # -- for the runner ----------------------------------------------------------------------------

    def _begin(self) -> None:
        with self._lock:
            self.state = "running"
            self.started = time.time()
        self._notify()

    def _cancel(self) -> None:
        """Ask a running job to end. The next `step` or `check` raises."""
        self._cancelled = True
        self._notify()

    def _finish(self, state: JobState, *, value: Any = None, error: SdWebUIError | None = None) -> None:
        with self._lock:
            self.state, self._value, self.error = state, value, error
            self.finished = time.time()
            self._previews.maker = None
            self._previews.drawn = None
        self._ended.set()
        self._notify()


def call_on(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Run `callback` on `loop` from any thread; nothing happens when the loop has been closed."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        log.debug("the event loop is closed; nobody waits any more")
