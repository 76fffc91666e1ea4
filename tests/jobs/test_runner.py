"""JobRunner: admission, order, ends of every kind, draining."""

from __future__ import annotations

import asyncio
import errno
import sys
import threading
import time

import pytest

from sdwebui_api.errors import BadRequest, Busy, Cancelled, OutOfMemory, SdWebUIError, Unavailable
from sdwebui_api.jobs.job import Job
from sdwebui_api.jobs.runner import JobRunner

PATIENCE = 60.0
"""Seconds for what takes milliseconds on an idle machine."""


class Gate:
    """Work that runs until it is told to end, one step at a time."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.release = threading.Event()

    def __call__(self, job: Job) -> str:
        job.set_total(1)
        job.start_batch(None, 10)
        self.started.set()
        step = 0
        while not self.release.wait(0.005) and not job.should_stop:
            step += 1
            job.step(min(step, 10))
        return "value"


def wait_until(condition, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "condition not met in time"
        time.sleep(0.005)


def test_result_is_handed_out_once_and_then_forgotten():
    runner = JobRunner()
    job = runner.submit(lambda job: "pictures", kind="txt2img")
    assert job.wait(PATIENCE) == "pictures"
    assert job.state == "done" and job.wait(PATIENCE) is None
    assert runner.get(job.id) is job


def test_result_on_the_event_loop():
    runner = JobRunner(concurrency=2)

    async def run() -> list[str]:
        jobs = [runner.submit(lambda job, i=i: f"v{i}", kind="txt2img") for i in range(20)]
        return await asyncio.gather(*(job.result() for job in jobs))

    assert asyncio.run(run()) == [f"v{i}" for i in range(20)]


def test_first_in_first_out():
    runner = JobRunner()
    order: list[int] = []
    jobs = [runner.submit(lambda job, i=i: order.append(i), kind="txt2img") for i in range(10)]
    for job in jobs:
        job.wait(PATIENCE)
    assert order == list(range(10))


def test_no_thread_before_the_first_job_and_never_more_than_wanted():
    before = set(threading.enumerate())  # of other tests', which may end meanwhile
    runner = JobRunner(concurrency=2)
    assert not set(threading.enumerate()) - before
    gates = [Gate() for _ in range(5)]
    jobs = [runner.submit(gate, kind="txt2img") for gate in gates]
    wait_until(lambda: runner.running == 2)
    assert len(set(threading.enumerate()) - before) == 2
    for gate in gates:
        gate.release.set()
    for job in jobs:
        job.wait(PATIENCE)


def test_full_queue_is_busy_with_a_time_to_come_back():
    runner = JobRunner(max_queue=2)
    gate = Gate()
    jobs = [runner.submit(gate, kind="txt2img") for _ in range(3)]
    with pytest.raises(Busy) as caught:
        runner.submit(gate, kind="txt2img")
    assert caught.value.retry_after >= 1
    with pytest.raises(Busy):
        runner.check_admission()
    gate.release.set()
    for job in jobs:
        job.wait(PATIENCE)
    runner.check_admission()


def test_id_of_a_live_job_is_refused_and_free_again_afterwards():
    runner = JobRunner()
    gate = Gate()
    job = runner.submit(gate, kind="txt2img", id="task(a)")
    with pytest.raises(BadRequest) as caught:
        runner.submit(gate, kind="txt2img", id="task(a)")
    assert caught.value.status == 422 and caught.value.field == "force_task_id"
    gate.release.set()
    job.wait(PATIENCE)
    assert runner.submit(gate, kind="txt2img", id="task(a)").wait(PATIENCE) == "value"


@pytest.mark.parametrize("end", [JobRunner.cancel, JobRunner.interrupt])
def test_a_job_that_winds_down_gives_its_id_away(end):
    runner, held, begun = JobRunner(), threading.Event(), threading.Event()

    def slow(job: Job) -> str:
        begun.set()
        held.wait(PATIENCE)
        return "old"

    old = runner.submit(slow, kind="txt2img", id="task(a)", user="ann")
    other = runner.submit(lambda job: "other", kind="txt2img")
    assert begun.wait(PATIENCE)
    end(runner, old)
    new = runner.submit(lambda job: "new", kind="txt2img", id="task(a)", user="ann")
    assert runner.get("task(a)", "ann") is new and runner.live_jobs() == [old, other, new]
    with pytest.raises(BadRequest):
        runner.submit(lambda job: "newer", kind="txt2img", id="task(a)", user="ann")
    held.set()
    assert new.wait(PATIENCE) == "new" and runner.get("task(a)", "ann") is new
    assert not runner.live_jobs() and old.state == ("cancelled" if end is JobRunner.cancel else "done")


def test_cancel_while_waiting_leaves_the_others():
    runner = JobRunner()
    gate = Gate()
    jobs = [runner.submit(gate, kind="txt2img") for _ in range(5)]
    gate.started.wait(PATIENCE)
    assert runner.cancel(jobs[3])
    assert jobs[3].state == "cancelled"
    with pytest.raises(Cancelled):
        jobs[3].wait(0)
    assert runner.position(jobs[4]) == 2
    gate.release.set()
    assert [job.wait(PATIENCE) for job in jobs if job is not jobs[3]] == ["value"] * 4
    assert not runner.cancel(jobs[0])


def test_cancel_while_running():
    runner = JobRunner()
    gate = Gate()
    job = runner.submit(gate, kind="txt2img")
    gate.started.wait(PATIENCE)
    assert runner.cancel(job)
    with pytest.raises(Cancelled):
        job.wait(PATIENCE)
    assert job.state == "cancelled"


def test_interrupt_keeps_the_value_of_a_running_job_and_cancels_a_waiting_one():
    runner = JobRunner()
    gate = Gate()
    running, waiting = (runner.submit(gate, kind="txt2img") for _ in range(2))
    gate.started.wait(PATIENCE)
    runner.interrupt(waiting)
    assert waiting.state == "cancelled"
    runner.interrupt(running)
    assert running.wait(PATIENCE) == "value" and running.interrupted


def test_failures_leave_the_server_alive(caplog):
    runner = JobRunner()

    def bug(job: Job) -> None:
        raise KeyError("/secret/path")

    def memory(job: Job) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    with pytest.raises(SdWebUIError) as caught:
        runner.submit(bug, kind="txt2img").wait(PATIENCE)
    assert caught.value.status == 500 and "/secret" not in caught.value.message
    assert "KeyError" in caplog.text
    with pytest.raises(OutOfMemory):
        runner.submit(memory, kind="txt2img").wait(PATIENCE)
    with pytest.raises(SdWebUIError, match="SystemExit"):
        runner.submit(lambda job: sys.exit(1), kind="txt2img").wait(PATIENCE)
    assert runner.submit(lambda job: 1, kind="txt2img").wait(PATIENCE) == 1


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 507), (errno.EROFS, 507), (errno.ENOENT, 500)])
def test_a_full_disk_is_no_bug(number, status):
    def write(job: Job) -> None:
        raise OSError(number, "…", "/secret/path")

    with pytest.raises(SdWebUIError) as caught:
        JobRunner().submit(write, kind="txt2img").wait(PATIENCE)
    assert caught.value.status == status and "/secret" not in caught.value.message


def test_ended_jobs_are_remembered_within_bounds():
    runner = JobRunner(keep_ended=3)
    jobs = [runner.submit(lambda job: 1, kind="txt2img") for _ in range(6)]
    for job in jobs:
        job.wait(PATIENCE)
    assert [job.id for job in runner.jobs()] == [job.id for job in reversed(jobs[3:])]
    assert runner.get(jobs[0].id) is None


def test_drain_finishes_what_was_admitted():
    runner = JobRunner()
    gate = Gate()
    jobs = [runner.submit(gate, kind="txt2img") for _ in range(3)]
    threading.Timer(0.05, gate.release.set).start()
    assert runner.drain(PATIENCE)
    assert [job.wait(PATIENCE) for job in jobs] == ["value"] * 3
    with pytest.raises(Unavailable):
        runner.submit(gate, kind="txt2img")


def test_drain_waits_until_everybody_was_told():
    runner, told = JobRunner(), []

    def slow(job: Job) -> None:
        time.sleep(0.2)
        told.append(job.state)

    runner.observe(slow)
    job = runner.submit(lambda job: 1, kind="txt2img")
    assert runner.drain(PATIENCE) and told == ["done"] and not job.live


def test_drain_cancels_what_takes_too_long():
    runner = JobRunner()
    gate = Gate()
    jobs = [runner.submit(gate, kind="txt2img") for _ in range(3)]
    gate.started.wait(PATIENCE)
    assert not runner.drain(0.05)
    for job in jobs:
        with pytest.raises(Cancelled):
            job.wait(PATIENCE)
