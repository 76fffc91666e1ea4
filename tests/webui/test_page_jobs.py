"""Jobs of the page: they need no browser, belong to one user, and are found again."""

from __future__ import annotations

import asyncio

import pytest
from PIL import Image

from sdwebui_api.errors import BadRequest, SdWebUIError
from sdwebui_api.webui.page_jobs import PageJobs
from tests.support.fakes import fake_services

BODY = {"prompt": "a red apple", "steps": 4, "width": 64, "height": 64, "save_images": True}


@pytest.fixture
def services(tmp_path):
    services = fake_services(tmp_path)
    yield services
    services.generator.gate.set()
    services.runner.drain(5)


@pytest.fixture
def jobs(tmp_path):
    return PageJobs(tmp_path / "cache")


def test_nobody_has_to_watch_a_job(services, jobs):
    async def run():
        job = await jobs.start(services, "txt2img", BODY, "ann")
        await asyncio.wait_for(job.ended.wait(), 60)
        return job

    job = asyncio.run(run())
    (picture,) = job.pictures
    assert Image.open(picture.path).text["parameters"] == picture.infotext == "a red apple\nSteps: 4"
    assert job.error is None and job.info["job_id"] == job.id


def test_a_job_is_found_by_its_user_alone(services, jobs):
    async def run():
        job = await jobs.start(services, "txt2img", BODY, "ann")
        await job.ended.wait()
        return [jobs.find(job.id, user) is job for user in ("ann", "bob", None)], jobs.find(None, "ann")

    assert asyncio.run(run()) == ([True, False, False], None)


def test_a_watcher_sees_the_queue_the_steps_the_preview_and_the_end(services, jobs):
    services.generator.gate.clear()

    async def run():
        first = await jobs.start(services, "txt2img", BODY, None)
        second = await jobs.start(services, "txt2img", BODY, None)
        third = await jobs.start(services, "txt2img", BODY, None)
        sights = []

        async def look():
            async for sight in jobs.watch(services, third):
                sights.append(sight)
                if sight.preview:
                    services.generator.gate.set()

        watching = asyncio.create_task(look())
        await asyncio.sleep(0.5)
        for earlier in (first, second):
            services.runner.interrupt(earlier.job)
        await asyncio.wait_for(watching, 60)
        return sights

    sights = asyncio.run(run())
    assert sights[0].state == "queued" and sights[0].ahead == 1
    running = [sight for sight in sights if sight.state == "running" and sight.steps]
    assert running and running[-1].steps == 4 and any(sight.preview for sight in running)
    assert sights[-1].state == "done" and sights[-1].fraction == 1


def test_interrupting_keeps_what_there_is(services, jobs):
    services.generator.gate.clear()

    async def run():
        job = await jobs.start(services, "txt2img", {**BODY, "n_iter": 3}, None)
        async for sight in jobs.watch(services, job):
            if sight.steps:
                services.runner.interrupt(job.job)
        return job

    job = asyncio.run(run())
    assert len(job.pictures) == 1 and job.error is None


def test_a_failure_is_told(services, jobs):
    services.generator.error = SdWebUIError("no luck")

    async def run():
        job = await jobs.start(services, "txt2img", BODY, None)
        await job.ended.wait()
        return job

    job = asyncio.run(run())
    assert job.error == "no luck" and not job.pictures


@pytest.mark.parametrize(("wrong", "field"), [({"steps": 0}, "steps"), ({"sampler_name": "x"}, "sampler_name")])
def test_a_wrong_field_is_refused_before_there_is_a_job(services, jobs, wrong, field):
    with pytest.raises(BadRequest) as refused:
        asyncio.run(jobs.start(services, "txt2img", {**BODY, **wrong}, None))
    assert refused.value.field == field
    assert not services.runner.jobs()
