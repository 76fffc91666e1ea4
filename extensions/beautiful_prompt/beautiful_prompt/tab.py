"""The tab of the page: a few words in, a list of prompts out, each with buttons that take it to the other tabs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.components import Component
from pydantic import ValidationError

from beautiful_prompt.expand import Expansion
from beautiful_prompt.library import Library
from beautiful_prompt.routes import ExpandBody, start
from beautiful_prompt.sampling import LARGEST_SEED, LONGEST_RESULT, MOST_RESULTS
from sdwebui_api.api.services import Services
from sdwebui_api.errors import Cancelled, SdWebUIError
from sdwebui_api.jobs.job import Job
from sdwebui_api.webui.context import PageBuilder, user_of
from sdwebui_api.webui.generation.gallery import progress_html
from sdwebui_api.webui.generation.run import refusal
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.page_jobs import TICK_SECONDS, Sight

Updates = dict[Any, Any]
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build(page: PageBuilder) -> None:
    tab = Tab(page)
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320, elem_classes=["settings"]):
            tab.question()
            tab.sampling()
        with gr.Column(scale=2, min_width=320, elem_classes=["results"]):
            tab.answers()
    tab.wire()


@dataclass
class Answer:
    """A line of the list. It stays hidden until there is something in it."""

    row: gr.Row
    text: gr.Textbox


@dataclass
class Tab:
    page: PageBuilder
    fields: dict[str, Component] = field(default_factory=dict)
    """By the name of the body's field."""
    lines: list[Answer] = field(default_factory=list)

    def question(self) -> None:
        self._field(
            "prompt",
            gr.Textbox(
                label=t("What the picture shows, in a few words"),
                placeholder=t("a red apple"),
                lines=3,
                max_lines=10,
                max_length=2000,
                elem_id="beautiful_prompt_text",
            ),
        )
        offered = model_choices(self.page.services)
        self._field(
            "model",
            gr.Dropdown(offered, value=offered[0][1], label=t("Model"), elem_id="beautiful_prompt_model"),
            choices=model_choices,
        )
        self._field(
            "count",
            gr.Slider(1, MOST_RESULTS, 4, step=1, label=t("Number of prompts"), elem_id="beautiful_prompt_count"),
        )
        with gr.Row(elem_classes=["generate-box"]):
            self.generate = gr.Button(t("Generate"), variant="primary", elem_id="beautiful_prompt_generate")
            self.interrupt = gr.Button(t("Interrupt"), visible=False, elem_id="beautiful_prompt_interrupt")

    def sampling(self) -> None:
        with gr.Accordion(t("Sampling options"), open=False, elem_id="beautiful_prompt_sampling"):
            self._slider("max_new_tokens", t("Longest addition, in tokens"), 1, LONGEST_RESULT, 100, 1)
            self._field(
                "seed",
                gr.Number(
                    -1, label=t("Seed (-1: another each time)"), precision=0, minimum=-1, maximum=LARGEST_SEED,
                    elem_id="beautiful_prompt_seed",
                ),
            )  # fmt: skip
            gr.Markdown(t("What follows is for language models; the grammars do not heed it."))
            self.recommended = self.page.add(
                gr.Checkbox(
                    True, label=t("Temperature and repetition penalty as the model's authors recommend"),
                    elem_id="beautiful_prompt_recommended",
                ),
                saved="beautiful_prompt/recommended",
            )  # fmt: skip
            self._slider("temperature", t("Temperature"), 0, 2, 1.0, 0.05, interactive=False)
            self._slider("repetition_penalty", t("Repetition penalty"), 1, 2, 1.1, 0.05, interactive=False)
            self._slider("top_k", t("Top k (0: all tokens)"), 0, 1000, 50, 1)
            self._slider("top_p", t("Top p"), 0.01, 1, 0.95, 0.01)

    def answers(self) -> None:
        self.progress = gr.HTML("", elem_id="beautiful_prompt_progress", elem_classes=["progress-box"], padding=False)
        self.note = gr.Markdown(t("The prompts will appear here."), elem_id="beautiful_prompt_note")
        for number in range(1, MOST_RESULTS + 1):
            self._line(number)

    def _line(self, number: int) -> None:
        name = f"beautiful_prompt_result_{number}"
        with gr.Row(visible=False, elem_id=f"{name}_row", elem_classes=["compact"]) as row:
            with gr.Column(scale=5, min_width=260):
                text = gr.Textbox(
                    label=str(number), show_label=False, lines=2, max_lines=8, interactive=True, buttons=["copy"],
                    elem_id=name,
                )  # fmt: skip
            with gr.Column(scale=1, min_width=120):
                for kind, label in (("txt2img", t("to txt2img")), ("img2img", t("to img2img"))):
                    self._send_button(f"{name}_to_{kind}", kind, label, text)
        self.lines.append(Answer(row, text))

    def _send_button(self, id: str, kind: str, label: str, text: gr.Textbox) -> None:
        """Where that tab is hidden there is no button."""
        target = self.page.components.get(f"{kind}_prompt")
        if target is None or self.page.tabs is None:
            return
        button = gr.Button(label, size="sm", elem_id=id)
        button.click(
            lambda prompt: (gr.Tabs(selected=kind), prompt), text, [self.page.tabs, target], queue=False, **QUIET
        )

    def _field(self, name: str, component: Component, **more: Any) -> None:
        saved = None if name == "prompt" else f"beautiful_prompt/{name}"
        self.fields[name] = self.page.add(component, saved=saved, **more)

    def _slider(self, name: str, label: str, low: float, high: float, value: float, step: float, **more: Any) -> None:
        slider = gr.Slider(low, high, value, step=step, label=label, elem_id=f"beautiful_prompt_{name}", **more)
        self._field(name, slider)

    def wire(self) -> None:
        self.job_id = gr.State(None)
        lines = [component for line in self.lines for component in (line.row, line.text)]
        outputs = [self.progress, self.note, self.generate, self.interrupt, self.job_id, *lines]
        inputs = {*self.fields.values(), self.recommended}
        prompt = self.fields["prompt"]
        assert isinstance(prompt, gr.Textbox)
        gr.on([self.generate.click, prompt.submit], self._generate, inputs, outputs, concurrency_limit=None, **QUIET)
        self.interrupt.click(self._interrupt, self.job_id, None, queue=False, **QUIET)
        numbers = [self.fields["temperature"], self.fields["repetition_penalty"]]
        self.recommended.change(
            lambda on: [gr.update(interactive=not on)] * 2, self.recommended, numbers, queue=False, **QUIET
        )

    # -- while somebody looks --------------------------------------------------------------------------------------

    async def _generate(self, values: Mapping[Component, Any], request: gr.Request) -> AsyncIterator[Updates]:
        services = self.page.services_for(request)
        try:
            job = await start(services, self._body(values), user_of(request))
        except SdWebUIError as error:
            raise refusal(error.message) from None
        result = asyncio.ensure_future(job.result())
        try:
            async for updates in self._follow(services, job, result):
                yield updates
        finally:
            result.cancel()
            if job.live:  # nobody looks any more
                services.runner.cancel(job)

    def _body(self, values: Mapping[Component, Any]) -> ExpandBody:
        """Raises BadRequest naming the first wrong field."""
        fields = {name: values[component] for name, component in self.fields.items()}
        if values[self.recommended]:
            fields["temperature"] = fields["repetition_penalty"] = None
        try:
            return ExpandBody.model_validate(fields)
        except ValidationError as error:
            problem = error.errors()[0]
            raise SdWebUIError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None

    async def _follow(self, services: Services, job: Job, result: asyncio.Future[Expansion]) -> AsyncIterator[Updates]:
        yield {**self._buttons(working=True), self.job_id: job.id}
        while not (await asyncio.wait({result}, timeout=TICK_SECONDS))[0]:
            yield {self.progress: progress_html(_sight(services, job))}
        try:
            yield {**self._buttons(working=False), self.progress: "", **self._shown(await result)}
        except Cancelled:
            yield {**self._buttons(working=False), self.progress: ""}
        except SdWebUIError as error:
            yield {**self._buttons(working=False), self.progress: ""}
            raise refusal(error.message) from None

    def _shown(self, found: Expansion) -> Updates:
        note = t("By {model}; seeds {first} to {last}", model=found.model, first=found.seeds[0], last=found.seeds[-1])
        updates: Updates = {self.note: note}
        for number, line in enumerate(self.lines):
            there = number < len(found.prompts)
            updates[line.row] = gr.update(visible=there)
            updates[line.text] = found.prompts[number] if there else ""
        return updates

    def _buttons(self, *, working: bool) -> Updates:
        return {self.generate: gr.update(visible=not working), self.interrupt: gr.update(visible=working)}

    def _interrupt(self, id: str | None, request: gr.Request) -> None:
        runner = self.page.services_for(request).runner
        job = runner.get(id, user_of(request)) if id else None
        if job is not None:
            runner.interrupt(job)


def model_choices(services: Services) -> Sequence[tuple[str, str]]:
    """(what is shown, name)."""
    titles = {
        "phrase-grammar": t("phrase-grammar (no language model)"),
        "emoji-grammar": t("emoji-grammar (no model, for emoji-mini)"),
    }
    return [(titles.get(name, name), name) for name in Library(services.catalog.models_dirs).names()]


def _sight(services: Services, job: Job) -> Sight:
    if job.state == "queued":
        return Sight("queued", ahead=services.runner.position(job) or 0)
    now = job.snapshot()
    left = now.elapsed / now.fraction - now.elapsed if now.fraction > 0 else None
    return Sight(job.state, now.fraction, left, text=now.textinfo or "")
