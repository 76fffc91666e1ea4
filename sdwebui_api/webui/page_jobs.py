"""The jobs of the page: submitted as the API submits them, independent of the browser, found again after a reload."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradio.processing_utils import save_bytes_to_cache, save_file_to_cache
from pydantic import ValidationError

from sdwebui_api.api.generation_call import Kind, Prepared, prepare, submit
from sdwebui_api.api.generation_schema import GenerationBody, Img2ImgBody, Txt2ImgBody
from sdwebui_api.api.linked import generation_pictures, linked
from sdwebui_api.api.progress import live_preview
from sdwebui_api.api.services import Services
from sdwebui_api.errors import BadRequest, SdWebUIError
from sdwebui_api.generation.request import GeneratedImage, GenerationResult
from sdwebui_api.jobs.job import Job, JobState

log = logging.getLogger(__name__)

KEEP_SECONDS = 3600.0
TICK_SECONDS = 0.3
BODIES: Mapping[Kind, type[GenerationBody]] = {"txt2img": Txt2ImgBody, "img2img": Img2ImgBody}


@dataclass(frozen=True)
class Picture:
    """One picture of a result, as a file that gradio serves: in its cache, below a name nobody can guess."""

    path: Path
    infotext: str
    role: str
    """As `GeneratedImage.role`."""


@dataclass(frozen=True)
class Place:
    """Where in a gallery a job's pictures go: instead of `pictures[index]`."""

    pictures: Sequence[Picture]
    index: int


@dataclass(frozen=True)
class Sight:
    """What the page shows of a job at one moment."""

    state: JobState
    fraction: float = 0.0
    eta: float | None = None
    """Seconds; None while nothing can be said."""
    ahead: int = 0
    """Jobs that wait before this one."""
    text: str = ""
    step: int = 0
    steps: int = 0
    preview: str | None = None
    """A data URL."""


@dataclass
class PageJob:
    """A job of a visitor, and what became of it."""

    job: Job
    user: str | None
    created: float = field(default_factory=time.monotonic)
    pictures: list[Picture] = field(default_factory=list)
    shown: int = 0
    """Which of them is looked at first."""
    info: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        return self.job.id

    def seen(self, sight: Sight) -> Sight:
        """`sight` of the job that is at work, as the page is to show it."""
        return sight

    def interrupt(self, services: Services) -> None:
        services.runner.interrupt(self.job)


Keep = Callable[[PageJob, Any], None]
"""Puts what a job returned into its `PageJob`."""


class PageJobs:
    """Belongs to the event loop: every method is called there.

    `cache`: gradio's folder of files to serve.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._jobs: dict[tuple[str | None, str], PageJob] = {}
        """By user and id: two users may choose the same id."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(
        self, services: Services, kind: Kind, body: Mapping[str, Any], user: str | None, place: Place | None = None
    ) -> PageJob:
        """Submits `body` (fields of POST /sdapi/v1/<kind>). Raises what the API answers with an error."""
        checked = _checked(kind, body)
        services.runner.check_admission(user)
        async with linked(services, lambda swap: generation_pictures(kind, dict(checked), swap)) as pictures:
            prepared = await services.off_loop(prepare, services, kind, checked, pictures, None)
        job = submit(services, kind, prepared, user, checked.force_task_id)
        return self.follow(services, job, user, lambda page_job, result: self._keep(page_job, prepared, result, place))

    def follow(self, services: Services, job: Job, user: str | None, keep: Keep) -> PageJob:
        """A job that has been submitted becomes one of the page's. keep: called in the executor with its result."""
        page_job = PageJob(job, user)
        self.keep_running(page_job, self._bring_home(services, page_job, keep))
        return page_job

    def keep_running(self, page_job: PageJob, work: Coroutine[Any, Any, None]) -> None:
        """`work` sets `page_job.ended`; it goes on whether anybody looks or not, and can be found again."""
        self._forget_old()
        self._jobs[page_job.user, page_job.id] = page_job
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def find(self, id: str | None, user: str | None) -> PageJob | None:
        """A job that `user` started here; None when there is none, or when it is another's."""
        return self._jobs.get((user, id or ""))

    def live(self, user: str | None) -> list[PageJob]:
        return [found for found in self._jobs.values() if found.user == user and not found.ended.is_set()]

    async def watch(self, services: Services, page_job: PageJob) -> AsyncIterator[Sight]:
        """What is to be seen, now and every `TICK_SECONDS`, until the pictures are there (the last sight is final)."""
        while not page_job.ended.is_set():
            yield page_job.seen(await _sight(services, page_job.job))
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await page_job.ended.wait()
            except TimeoutError:
                continue
        yield Sight(page_job.job.state, 1.0)

    async def _bring_home(self, services: Services, page_job: PageJob, keep: Keep) -> None:
        begun = time.perf_counter()
        try:
            result = await page_job.job.result()
            await services.off_loop(keep, page_job, result)
        except SdWebUIError as error:
            page_job.error = error.message
        except Exception:
            log.exception("job %s: its result could not be kept", page_job.id)
            page_job.error = "What it made could not be kept; the log tells more"
        finally:
            page_job.seconds = time.perf_counter() - begun
            page_job.ended.set()

    def _keep(
        self, page_job: PageJob, prepared: Prepared, result: GenerationResult, place: Place | None = None
    ) -> None:
        page_job.info = {**result.info, **prepared.info(result, page_job.id, [])}
        page_job.warnings = page_job.info["warnings"]
        page_job.pictures = [
            Picture(self._file(prepared, image), image.infotext, image.role) for image in result.images
        ]
        if place is not None and page_job.pictures:
            page_job.shown = place.index
            page_job.pictures[:0] = place.pictures[: place.index]
            page_job.pictures += place.pictures[place.index + 1 :]

    def _file(self, prepared: Prepared, image: GeneratedImage) -> Path:
        """A copy of what was saved, or the picture encoded as the API would."""
        from sdwebui_api.imaging.codec import encode_image

        if image.saved_path and Path(image.saved_path).is_file():
            return Path(save_file_to_cache(image.saved_path, str(self.cache)))
        stored = prepared.stored
        data = encode_image(
            image.image,
            stored.samples_format,
            quality=stored.jpeg_quality,
            webp_lossless=stored.webp_lossless,
            infotext=(image.infotext or None) if prepared.request.options.enable_pnginfo else None,
        )
        name = f"{image.role}.{stored.samples_format}"
        return Path(save_bytes_to_cache(data, name, str(self.cache)))

    def _forget_old(self) -> None:
        horizon = time.monotonic() - KEEP_SECONDS
        for key, old in list(self._jobs.items()):
            if old.ended.is_set() and old.created < horizon:
                del self._jobs[key]


async def _sight(services: Services, job: Job) -> Sight:
    if job.state == "queued":
        return Sight("queued", ahead=services.runner.position(job) or 0)
    now = job.snapshot()
    image = await live_preview(services, job)
    kind = job.preview_settings.image_format
    return Sight(
        job.state,
        now.fraction,
        now.elapsed / now.fraction - now.elapsed if now.fraction > 0 else None,
        text=now.textinfo or (now.job if now.job_count > 1 else ""),
        step=now.sampling_step,
        steps=now.sampling_steps,
        preview=f"data:image/{kind};base64,{base64.b64encode(image.data).decode()}" if image else None,
    )


def _checked(kind: Kind, body: Mapping[str, Any]) -> GenerationBody:
    """Raises BadRequest naming the first wrong field."""
    try:
        return BODIES[kind].model_validate(dict(body))
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        raise BadRequest(f"{name}: {problem['msg']}", field=name) from None
