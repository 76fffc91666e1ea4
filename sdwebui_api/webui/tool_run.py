"""A tab with one button that starts a job: progress, the way to stop it, its result, and all of that after a reload."""

from __future__ import annotations

import html
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component
from pydantic import BaseModel, ValidationError

from sdwebui_api.api.services import Services
from sdwebui_api.errors import BadRequest, SdWebUIError
from sdwebui_api.webui import opening
from sdwebui_api.webui.context import PageBuilder, user_of
from sdwebui_api.webui.generation.gallery import progress_html
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.page_jobs import PageJob
from sdwebui_api.webui.refusals import named, refusal
from sdwebui_api.webui.server_messages import said

Schema = TypeVar("Schema", bound=BaseModel)
Updates = dict[Component, Any]
Start = Callable[..., Awaitable[PageJob]]
"""`(services, user, *values of inputs)`: checks and submits. Raises SdWebUIError."""


@dataclass
class ToolRun:
    """Build it where the button, the bar and the result's components belong; then `wire`."""

    page: PageBuilder
    id: str
    """elem_ids begin with it; also the browser's name for what it waits for."""
    label: str
    cancels: bool = False
    """Stopping drops the work; otherwise it ends early with what there is."""
    makes_models: bool = False
    """What comes out can be chosen from the page's lists, which are asked again therefore."""
    begin: gr.Button = field(init=False)
    stop: gr.Button = field(init=False)
    progress: gr.HTML = field(init=False)

    def buttons(self) -> None:
        self.begin = self.page.add(gr.Button(self.label, variant="primary", elem_id=self.id))
        stop = t("Cancel") if self.cancels else t("Interrupt")
        self.stop = self.page.add(gr.Button(stop, variant="stop", visible=False, elem_id=f"{self.id}_interrupt"))

    def bar(self) -> None:
        id = f"{self.id}_progress"
        self.progress = gr.HTML("", elem_id=id, elem_classes=["progress-box", "in-line"], padding=False)

    def wire(
        self,
        inputs: Sequence[Component],
        start: Start,
        outputs: Sequence[Component],
        show: Callable[[PageJob], Updates],
    ) -> None:
        """show: the updates of `outputs` once the job has ended well. The wires are laid when all tabs are there."""
        self.show = show
        self.start = start
        self.page.when_complete(lambda: self._wire(list(inputs), list(outputs)))

    def _wire(self, inputs: list[Component], outputs: list[Component]) -> None:
        self.job_id = self.page.store(f"{self.id}_job")
        lists = list(self.page.lists) if self.makes_models else []
        shown = list(dict.fromkeys([self.progress, self.begin, self.stop, self.job_id, *outputs, *lists]))
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
        self.begin.click(self._begin, inputs, shown, **quiet)
        self.stop.click(self._stop, self.job_id, None, queue=False, **quiet)
        assert self.page.blocks is not None
        self.page.blocks.load(self._find_again, self.job_id, shown, **quiet)

    async def _begin(self, request: gr.Request, *values: Any) -> AsyncIterator[Updates]:
        services, user = self.page.services_for(request), user_of(request)
        try:
            job = await self.start(services, user, *values)
        except SdWebUIError as error:
            raise refusal(named(error)) from None
        async for updates in self._follow(services, job):
            yield updates

    async def _find_again(self, id: str | None, request: gr.Request) -> AsyncIterator[Updates]:
        job = self.page.jobs.find(id, user_of(request))
        if job is None:
            yield {self.progress: gr.skip()}
            return
        async for updates in self._follow(self.page.services_for(request), job):
            yield updates

    async def _follow(self, services: Services, job: PageJob) -> AsyncIterator[Updates]:
        """A failure is told when it happens; whoever opens the page later reads of it."""
        watched = not job.ended.is_set()
        if watched:
            yield {self.begin: gr.update(visible=False), self.stop: gr.update(visible=True), self.job_id: job.id}
            last = None
            async for sight in self.page.jobs.watch(services, job):
                if sight != last and not job.ended.is_set():
                    yield {self.progress: progress_html(sight)}
                last = sight
        done = {self.begin: gr.update(visible=True), self.stop: gr.update(visible=False), self.progress: ""}
        if job.job.state == "cancelled":
            yield {**done, self.progress: f'<div class="note">{t("Cancelled")}</div>'}
        elif job.error:
            yield {**done, self.progress: f'<div class="error-line">{html.escape(said(job.error))}</div>'}
            if watched:
                raise refusal(job.error)
        else:
            lists = await services.off_loop(self._lists, services) if self.makes_models else {}
            yield {**done, **lists, **self.show(job)}

    def _lists(self, services: Services) -> Updates:
        offered, values = opening.known(self.page, services)
        return opening.updates(offered, {one: value for one, value in values.items() if one in offered})

    def _stop(self, id: str | None, request: gr.Request) -> None:
        job = self.page.jobs.find(id, user_of(request))
        if job is not None:
            runner = self.page.services_for(request).runner
            (runner.cancel if self.cancels else runner.interrupt)(job.job)


def checked(schema: type[Schema], body: dict[str, Any]) -> Schema:
    """`body` as the API's schema reads it; empty fields (None) count as not sent. Raises BadRequest."""
    try:
        return schema.model_validate({name: value for name, value in body.items() if value is not None})
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        raise BadRequest(problem["msg"], field=name) from None
