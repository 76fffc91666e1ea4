"""A folder of pictures in img2img: one request after the other, without a browser, and to its end."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from PIL import Image

from sdwebui_api.errors import BadRequest
from sdwebui_api.webui.generation.batch_run import Beside, body_of
from sdwebui_api.webui.page_jobs import PageJobs
from sdwebui_api.webui.page_series import start_series
from tests.support.fakes import fake_services

BODY = {"prompt": "a red apple", "steps": 4, "width": 64, "height": 64, "save_images": True}


@pytest.fixture
def services(tmp_path):
    services = fake_services(tmp_path)
    yield services
    services.generator.gate.set()
    services.runner.drain(5)


@pytest.fixture
def files(tmp_path):
    files = [tmp_path / f"{name}.png" for name in "abcd"]
    for file in files:
        Image.new("RGB", (64, 64), "red").save(file)
    return files


def parts(services, files):
    return [(file.name, partial(body_of, services, BODY, file, Beside())) for file in files]


@pytest.mark.parametrize("broken", [0, 1])
def test_every_file_has_its_turn_and_a_bad_one_stops_nothing(services, files, tmp_path, broken):
    jobs = PageJobs(tmp_path / "cache")
    files[broken].write_text("no picture")
    files[2].unlink()

    async def run():
        series = await start_series(jobs, services, "img2img", parts(services, files), "ann", -1)
        assert jobs.find(series.id, "ann") is series and jobs.find(series.id, "bob") is None
        await asyncio.wait_for(series.ended.wait(), 60)
        return series

    series = asyncio.run(run())
    assert (len(services.generator.requests), len(series.pictures), series.error) == (2, 2, None)
    assert [warning.partition(":")[0] for warning in series.warnings] == [files[broken].name, "c.png"]
    assert series.number == 4
    with pytest.raises(BadRequest):
        asyncio.run(start_series(jobs, services, "img2img", parts(services, files[broken : broken + 1]), "ann", -1))


def test_progress_is_that_of_the_whole_and_interrupt_ends_it(services, files, tmp_path):
    jobs = PageJobs(tmp_path / "cache")

    draw = services.generator.run

    def last_one_waits(request, job):
        if len(services.generator.requests) == 3:
            services.generator.gate.clear()
        return draw(request, job)

    services.generator.run = last_one_waits

    async def run():
        series = await start_series(jobs, services, "img2img", parts(services, files), None, 1)
        await until(lambda: len(services.generator.requests) == 4)
        sight = await anext(jobs.watch(services, series))
        series.interrupt(services)
        await asyncio.wait_for(series.ended.wait(), 60)
        return series, sight

    series, sight = asyncio.run(run())
    assert 0.75 <= sight.fraction < 1 and "d.png" in sight.text
    assert len(series.pictures) == 1 and series.job.interrupted


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)
