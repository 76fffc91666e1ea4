"""Waiting jobs are prepared while others run."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sdwebui_api.jobs.job import Job
from sdwebui_api.jobs.preparing import LOOK_AHEAD
from sdwebui_api.jobs.runner import JobRunner
from tests.jobs.test_runner import Gate


class Recorder:
    """Remembers which jobs were prepared; `enough` is set after `wanted` of them."""

    def __init__(self, wanted: int) -> None:
        self.names: list[str] = []
        self.enough = threading.Event()
        self._wanted = wanted

    def of(self, name: str) -> Callable[[Callable[[], bool]], None]:
        def prepare(gone: Callable[[], bool]) -> None:
            assert not gone()
            self.names.append(name)
            if len(self.names) == self._wanted:
                self.enough.set()
            if name == "fails":
                raise ValueError

        return prepare


def test_the_next_in_line_are_prepared_in_order_and_what_fails_harms_nobody() -> None:
    runner, gate, recorder = JobRunner(concurrency=1), Gate(), Recorder(LOOK_AHEAD)
    runner.submit(gate, kind="txt2img", prepare=recorder.of("runs at once"))
    gate.started.wait(5)
    names = ["a", "fails", *"cdef"]
    jobs = [runner.submit(lambda job: 1, kind="txt2img", prepare=recorder.of(name)) for name in names]
    assert recorder.enough.wait(5)
    assert recorder.names == names[:LOOK_AHEAD]
    gate.release.set()
    assert [job.wait(5) for job in jobs] == [1] * len(jobs)


def test_whoever_is_taken_up_at_once_is_not_prepared() -> None:
    runner, gate, recorder = JobRunner(concurrency=2), Gate(), Recorder(1)
    jobs = [runner.submit(gate, kind="txt2img", prepare=recorder.of("x")) for _ in range(2)]
    gate.started.wait(5)
    gate.release.set()
    for job in jobs:
        job.wait(5)
    assert recorder.names == []


def test_preparation_learns_that_its_job_is_gone() -> None:
    runner, gate, seen = JobRunner(concurrency=1), Gate(), threading.Event()
    begun = threading.Event()

    def prepare(gone: Callable[[], bool]) -> None:
        begun.set()
        while not gone():
            threading.Event().wait(0.001)
        seen.set()

    runner.submit(gate, kind="txt2img")
    gate.started.wait(5)
    waiting: Job = runner.submit(gate, kind="txt2img", prepare=prepare)
    assert begun.wait(5) and not seen.is_set()
    runner.cancel(waiting)
    assert seen.wait(5)
    gate.release.set()
