"""From the Generate button to the pictures: handlers that wait on the event loop alone, and follow a job for as long
as somebody looks. The job itself does not care whether anybody does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from sdwebui_api.errors import SdWebUIError
from sdwebui_api.webui.context import user_of
from sdwebui_api.webui.generation import gallery
from sdwebui_api.webui.generation.form import Form
from sdwebui_api.webui.generation.prompt import PromptArea
from sdwebui_api.webui.generation.results import Results
from sdwebui_api.webui.page_jobs import PageJob
from sdwebui_api.webui.refusals import named, refusal

Updates = dict[Component, Any]

# The page's own calls are no API: `txt2img` by name is (`webui/named_calls.py`).
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}


@dataclass
class Run:
    """The wires of one generation tab."""

    form: Form
    area: PromptArea
    results: Results

    def wire(self) -> None:
        form, area, results = self.form, self.area, self.results
        self.job_id = form.page.store(f"{form.kind}_job")
        self.outputs: list[Component] = [
            results.progress, results.gallery, results.info, results.infotexts, results.shown, results.files,
            self.job_id, area.generate, area.interrupt, area.skip,
        ]  # fmt: skip
        begun = area.generate.click(self._generate, form.inputs, self.outputs, **QUIET)
        again = (
            f"(on) => {{ if (on) setTimeout(() => document.getElementById('{form.id('generate')}')?.click(), 300) }}"
        )
        begun.success(None, area.forever, None, js=again)
        area.interrupt.click(self._interrupt, self.job_id, area.forever, queue=False, **QUIET)
        area.skip.click(self._skip, self.job_id, None, queue=False, **QUIET)
        blocks = form.page.blocks
        assert blocks is not None
        blocks.load(self._find_again, self.job_id, self.outputs, **QUIET)

    async def _generate(self, values: Mapping[Component, Any], request: gr.Request) -> AsyncIterator[Updates]:
        page, user = self.form.page, user_of(request)
        services = page.services_for(request)
        try:
            body = await services.off_loop(self.form.body, values)
            job = await page.jobs.start(services, self.form.kind, body, user)
        except SdWebUIError as error:
            raise refusal(named(error)) from None
        async for updates in self.follow(job, request):
            yield updates

    async def _find_again(self, id: str | None, request: gr.Request) -> AsyncIterator[Updates]:
        """After a reload: what the browser was waiting for, or has seen."""
        job = self.form.page.jobs.find(id, user_of(request))
        if job is None:
            yield {self.area.skip: gr.skip()}
            return
        async for updates in self.follow(job, request):
            yield updates

    async def follow(self, job: PageJob, request: gr.Request) -> AsyncIterator[Updates]:
        """What the page shows of `job`, for `outputs`, until it has ended."""
        page, results = self.form.page, self.results
        if not job.ended.is_set():
            yield {**self._buttons(working=True), self.job_id: job.id, results.files: gr.update(visible=False)}
            last = None
            async for sight in page.jobs.watch(page.services_for(request), job):
                if sight != last and not job.ended.is_set():
                    yield {results.progress: gallery.progress_html(sight)}
                last = sight
        yield {**self._buttons(working=False), results.progress: "", **self._pictures(job, request)}
        if job.error and job.job.state != "cancelled":
            raise refusal(job.error)

    def _pictures(self, job: PageJob, request: gr.Request) -> Updates:
        results, options = self.results, self.form.page.services_for(request).options.snapshot()
        if not job.pictures:
            return {results.info: gallery.summary_html(job)}
        if options.do_not_show_images:
            self.form.page.clean_later(picture.path for picture in job.pictures)
            return {results.info: gallery.summary_html(job)}
        return {
            results.gallery: gr.update(value=[str(picture.path) for picture in job.pictures], selected_index=job.shown),
            results.infotexts: [picture.infotext for picture in job.pictures],
            results.shown: job.shown,
            results.info: gallery.summary_html(job),
        }

    def _buttons(self, *, working: bool) -> Updates:
        area = self.area
        return {
            area.generate: gr.update(visible=not working),
            area.interrupt: gr.update(visible=working),
            area.skip: gr.update(visible=working),
        }

    def _interrupt(self, id: str | None, request: gr.Request) -> bool:
        """Also ends "generate forever"."""
        page = self.form.page
        job = page.jobs.find(id, user_of(request))
        if job is not None:
            job.interrupt(page.services_for(request))
        return False

    def _skip(self, id: str | None, request: gr.Request) -> None:
        job = self.form.page.jobs.find(id, user_of(request))
        if job is not None:
            job.job.skip()
