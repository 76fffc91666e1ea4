"""`JobRunner(fair=True)`: users are served in turn, one user's jobs run in their order."""

from __future__ import annotations

import threading
import time

import pytest

from sdwebui_api.errors import Busy
from sdwebui_api.jobs.job import Job
from sdwebui_api.jobs.runner import JobRunner


class Book:
    """Work that writes down who begins and ends; the first job waits until everything has been submitted."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun: list[str] = []
        self.side_by_side: set[frozenset[str]] = set()
        self._running: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, job: Job) -> None:
        with self._lock:
            self.begun.append(job.id)
            self._running.append(job.id)
            self.side_by_side.add(frozenset(self._running))
        self.open.wait(60)
        time.sleep(0.01)
        with self._lock:
            self._running.remove(job.id)


def submit(runner: JobRunner, work: Book, *ids: str) -> list[Job]:
    """`a1` is the first job of user `a`. The very first has begun when this returns."""
    jobs = []
    for id in ids:
        jobs.append(runner.submit(work, kind="x", id=id, user=id[0]))
        while not work.begun:
            time.sleep(0.002)
    return jobs


def finish(book: Book, jobs: list[Job]) -> None:
    book.open.set()
    for job in jobs:
        job.wait(60)


def test_users_take_turns_however_many_jobs_one_has():
    runner, book = JobRunner(fair=True), Book()
    jobs = submit(runner, book, "a1", "a2", "a3", "a4", "a5", "b1", "b2", "c1")
    finish(book, jobs)
    assert book.begun == ["a1", "a2", "b1", "c1", "a3", "b2", "a4", "a5"]


def test_first_come_first_served_without_fairness():
    runner, book = JobRunner(), Book()
    finish(book, submit(runner, book, "a1", "a2", "a3", "b1", "c1"))
    assert book.begun == ["a1", "a2", "a3", "b1", "c1"]


def test_positions_are_the_order_in_which_jobs_begin():
    runner, book = JobRunner(fair=True), Book()
    first = submit(runner, book, "a1")
    waiting = submit(runner, book, "a2", "a3", "a4", "b1", "b2", "c1", "c2", "c3")
    positions = {job.id: runner.position(job) for job in waiting}
    assert sorted(positions.values()) == list(range(8))
    assert runner.position(first[0]) is None
    finish(book, [*first, *waiting])
    assert book.begun[1:] == sorted(positions, key=lambda id: positions[id])


def test_one_users_jobs_run_one_after_the_other_beside_those_of_others():
    runner, book = JobRunner(concurrency=3, fair=True), Book()
    jobs = submit(runner, book, "a1", "a2", "a3", "b1", "b2")
    while len(book.begun) < 2:
        time.sleep(0.005)
    time.sleep(0.05)
    assert book.begun == ["a1", "b1"]
    finish(book, jobs)
    assert [id for id in book.begun if id[0] == "a"] == ["a1", "a2", "a3"]
    assert frozenset({"a1", "b1"}) in book.side_by_side
    assert all(len({id[0] for id in together}) == len(together) for together in book.side_by_side)


def test_a_flood_leaves_room_for_others():
    runner, book = JobRunner(max_queue=8, fair=True), Book()
    jobs = submit(runner, book, "a1")
    jobs += submit(runner, book, "a2", "a3")
    with pytest.raises(Busy, match="yours"):
        submit(runner, book, "a4")
    jobs += submit(runner, book, "b1")
    finish(book, jobs)


def test_a_cancelled_job_leaves_its_line_and_the_user_goes_on():
    runner, book = JobRunner(fair=True), Book()
    jobs = submit(runner, book, "a1", "b1", "b2", "b3")
    assert runner.cancel(jobs[1]) and runner.cancel(jobs[2])
    finish(book, [jobs[0], jobs[3]])
    assert book.begun == ["a1", "b3"]
    assert not runner.live_jobs()


def test_two_users_may_choose_the_same_id():
    runner, book = JobRunner(concurrency=2, fair=True), Book()
    mine, theirs = (runner.submit(book, kind="x", id="task", user=user) for user in "ab")
    assert runner.get("task", "a") is mine and runner.get("task", "b") is theirs
    assert runner.get("task") is None and runner.get("task", "c") is None
    finish(book, [mine, theirs])
