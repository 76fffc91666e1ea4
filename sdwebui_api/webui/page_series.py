"""Many jobs of the page as one: each begins when the one before it has ended, whether anybody looks or not."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sdwebui_api.api.generation_call import Kind
from sdwebui_api.api.services import Services
from sdwebui_api.errors import BadRequest, Busy, SdWebUIError
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.page_jobs import PageJob, PageJobs, Sight
from sdwebui_api.webui.server_messages import said

log = logging.getLogger(__name__)

Part = tuple[str, Callable[[], Mapping[str, Any]]]
"""A name to show, and what makes the body of its request (in the executor). It may raise BadRequest."""


@dataclass
class PageSeries(PageJob):
    """`job` is the one at work now; pictures and warnings are those of all that have ended."""

    count: int = 1
    number: int = 0
    """How many have ended."""
    name: str = ""
    stopped: bool = False
    began: float = field(default_factory=time.perf_counter)
    series_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def id(self) -> str:
        return self.series_id

    def seen(self, sight: Sight) -> Sight:
        fraction = (self.number + sight.fraction) / self.count
        spent = time.perf_counter() - self.began
        text = t("file {number} of {count}: {name}", number=self.number + 1, count=self.count, name=self.name)
        return replace(sight, fraction=fraction, eta=spent / fraction - spent if fraction else None, text=text)

    def interrupt(self, services: Services) -> None:
        """Ends the job at work early, and begins no other."""
        self.stopped = True
        super().interrupt(services)

    def take(self, ended: PageJob, name: str, most: int) -> None:
        """most: pictures that are shown; negative: all."""
        self.number += 1
        self.info = ended.info
        shown = [*self.pictures, *ended.pictures]
        self.pictures = shown if most < 0 else shown[:most]
        notes = [*ended.warnings, *([ended.error] if ended.error else [])]
        self.warnings += [f"{name}: {said(note)}" for note in notes]


async def start_series(
    jobs: PageJobs, services: Services, kind: Kind, parts: Sequence[Part], user: str | None, most: int
) -> PageSeries:
    """Begins with the first of `parts` of which a request can be made; the others become warnings.

    Raises what the API answers that request with, or what is wrong with the first where none can be made.
    """
    refused: list[tuple[str, BadRequest]] = []
    for place, (name, make) in enumerate(parts):
        try:
            body = await services.off_loop(make)
        except BadRequest as error:
            refused.append((name, error))
            continue
        first = await jobs.start(services, kind, body, user)
        series = PageSeries(first.job, user, count=len(parts), number=len(refused), name=name)
        series.warnings += [f"{broken}: {said(error.message)}" for broken, error in refused]
        jobs.keep_running(series, _go_on(jobs, services, kind, series, first, parts[place:], most))
        return series
    raise refused[0][1]


async def _go_on(
    jobs: PageJobs, services: Services, kind: Kind, series: PageSeries, first: PageJob, parts: Sequence[Part], most: int
) -> None:
    at_work: PageJob | None = first
    try:
        for index, (name, make) in enumerate(parts):
            if index:
                at_work = await _next(jobs, services, kind, series, name, make)
            if at_work is not None:
                await at_work.ended.wait()
                series.take(at_work, name, most)
                series.stopped |= at_work.job.interrupted or at_work.job.state == "cancelled"
            if series.stopped:
                return
    except Exception:
        log.exception("the series %s ended in the middle", series.id)
        series.error = "The series could not go on; the log tells more"
    finally:
        if not series.pictures and series.warnings:
            series.error = series.error or series.warnings[0]
        series.seconds = time.perf_counter() - series.began
        series.ended.set()


async def _next(
    jobs: PageJobs, services: Services, kind: Kind, series: PageSeries, name: str, make: Callable[[], Mapping[str, Any]]
) -> PageJob | None:
    """Waits for its place where the server is full. None: refused, which is noted."""
    while True:
        try:
            begun = await jobs.start(services, kind, await services.off_loop(make), series.user)
        except Busy as error:
            await asyncio.sleep(error.retry_after or 1.0)
            if series.stopped:
                return None
        except SdWebUIError as error:
            series.number += 1
            series.warnings.append(f"{name}: {said(error.message)}")
            return None
        else:
            series.job, series.name = begun.job, name
            if series.stopped:  # between two jobs
                begun.interrupt(services)
            return begun
