"""Job: A1111's numbers, previews on demand, events."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from PIL import Image

from sdwebui_api.errors import Cancelled
from sdwebui_api.jobs.events import changes
from sdwebui_api.jobs.job import Job, PreviewSettings
from sdwebui_api.jobs.runner import JobRunner

GOLDEN = Path(__file__).parents[1] / "golden" / "api" / "progress-interrupt-skip.json"


def recorded_polls() -> list[dict]:
    polls = []
    for entry in json.loads(GOLDEN.read_text()).values():
        polls += [poll["response"] for poll in entry.get("polls_of_GET_/sdapi/v1/progress", [])]
    return [poll for poll in polls if poll["state"]["job_count"] > 0]


def test_progress_equals_the_recordings():
    polls = recorded_polls()
    assert len(polls) > 10
    for poll in polls:
        state = poll["state"]
        job = Job("x", "txt2img")
        job.set_total(state["job_count"])
        for _ in range(state["job_no"]):
            job.next_part()
        job.start_batch(state["job"], state["sampling_steps"])
        job.step(state["sampling_step"])
        assert job.snapshot().progress == pytest.approx(poll["progress"], abs=1e-9)


def test_eta_follows_the_elapsed_time():
    job = Job("x", "txt2img")
    job._begin()
    job.started = time.time() - 10
    job.set_total(1)
    job.start_batch(None, 100)
    job.step(49)
    assert job.snapshot().progress == pytest.approx(0.5)
    eta = job.snapshot().eta_relative
    assert 10 <= eta <= time.time() - job.started  # as long again as it has taken


def test_before_the_total_is_known():
    job = Job("x", "txt2img")
    now = job.snapshot()
    assert (now.job, now.job_count, now.progress) == ("scripts_txt2img", -1, 0.01)


def test_cancelled_job_ends_at_its_next_step():
    job = Job("x", "txt2img")
    job.step(1)
    job._cancel()
    for call in (lambda: job.step(2), job.check, lambda: job.start_batch(None, 3)):
        with pytest.raises(Cancelled):
            call()


def test_previews_are_drawn_on_demand_and_every_n_steps():
    drawn: list[int] = []

    def maker(step: int):
        def make() -> Image.Image:
            drawn.append(step)
            return Image.new("RGB", (8, 8))

        return make

    job = Job("x", "txt2img", preview=PreviewSettings(every_n_steps=5))
    for step in range(1, 4):
        job.step(step, maker(step))
    assert drawn == []
    first = job.draw_preview(lambda image, form: form.encode())
    assert first is not None and first.data == b"png" and drawn == [3]
    job.step(7, maker(7))
    assert job.draw_preview(lambda image, form: b"") is first
    job.step(8, maker(8))
    second = job.draw_preview(lambda image, form: b"")
    assert second is not None and second.number == 2 and drawn == [3, 8]
    assert job.last_preview() is second


@pytest.mark.parametrize("settings", [PreviewSettings(enabled=False), PreviewSettings(every_n_steps=-1)])
def test_no_previews_when_switched_off(settings):
    job = Job("x", "txt2img", preview=settings)
    job.step(1, lambda: pytest.fail("drawn"))
    assert job.draw_preview(lambda image, form: b"") is None


def test_a_broken_preview_harms_nobody():
    job = Job("x", "txt2img")

    def broken() -> Image.Image:
        raise RuntimeError("no")

    job.step(1, broken)
    assert job.draw_preview(lambda image, form: b"") is None


def test_changes_end_with_the_job():
    runner, seen = JobRunner(), []

    def work(job: Job) -> None:
        job.set_total(1)
        job.start_batch(None, 5)
        for step in range(1, 6):
            job.step(step)
            end = time.monotonic() + 60
            while step not in seen and time.monotonic() < end:
                time.sleep(0.001)

    async def run() -> None:
        job = runner.submit(work, kind="txt2img")
        async for now in changes(job, min_interval=0.001):
            if now:
                seen.append(now.sampling_step)

    asyncio.run(run())
    assert seen == sorted(seen) and set(seen) >= {1, 2, 3, 4, 5}
