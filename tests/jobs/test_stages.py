from __future__ import annotations

import threading

import pytest

from sdwebui_api.errors import BadRequest
from sdwebui_api.jobs.runner import JobRunner
from sdwebui_api.jobs.stages import StageClock


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_inside_does_not_count_twice():
    time = Clock()
    clock = StageClock(time)
    with clock.timing("sample"):
        time.now += 2
        with clock.timing("load"):
            time.now += 5
        time.now += 1
    time.now += 100
    with clock.timing("load"):
        time.now += 1
    assert clock.seconds == {"sample": 3, "load": 6}


def test_a_stage_that_fails_is_counted():
    time = Clock()
    clock = StageClock(time)
    with pytest.raises(ValueError), clock.timing("decode"):
        time.now += 4
        raise ValueError
    with clock.timing("finish"):
        time.now += 1
    assert clock.seconds == {"decode": 4, "finish": 1}


def test_observers_see_every_ended_job_once_and_cannot_harm():
    runner, seen, told = JobRunner(10, 1), [], threading.Semaphore(0)

    def fails(job):
        raise RuntimeError("an observer's own fault")

    runner.observe(fails)
    runner.observe(lambda job: seen.append((job.kind, job.state, job.finished is not None)))
    runner.observe(lambda job: told.release() if job.kind == "d" else None)

    def refuse(job):
        raise BadRequest("no")

    gate = threading.Event()
    running = runner.submit(lambda job: gate.wait(60), kind="a")
    waiting = runner.submit(lambda job: 1, kind="b")
    runner.cancel(waiting)
    gate.set()
    running.wait(60)
    with pytest.raises(BadRequest):
        runner.submit(refuse, kind="c").wait(60)
    assert runner.submit(lambda job: 1, kind="d").wait(60) == 1
    assert told.acquire(timeout=60)  # observers hear of it after those who wait for the result
    assert sorted(seen) == [("a", "done", True), ("b", "cancelled", True), ("c", "failed", True), ("d", "done", True)]
