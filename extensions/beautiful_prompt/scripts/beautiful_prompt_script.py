"""BeautifulPrompt: the routes, the always-on script, and the tab of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from beautiful_prompt.expand import Expansion, checked, expand
from beautiful_prompt.library import DEFAULT, Library
from beautiful_prompt.sampling import LARGEST_SEED, LONGEST_RESULT, MOST_RESULTS, Sampling

from sdwebui_api.prompting.comments import strip_comments
from sdwebui_api.scripting.checks import number, whole
from sdwebui_api.scripting.hooks import (
    Argument,
    Arguments,
    Draft,
    Files,
    GenerationRequest,
    Hooks,
    Kind,
    Running,
    Script,
)
from sdwebui_api.scripting.page_hooks import PageTab


def app_started(app: Any) -> None:
    from beautiful_prompt.routes import router

    app.include_router(router)


def page_tab() -> PageTab:
    return PageTab("beautiful_prompt", "BeautifulPrompt", _build_tab)


def _build_tab(page: Any) -> None:
    from beautiful_prompt.tab import build  # gradio

    build(page)


class BeautifulPrompt(Script):
    title: ClassVar[str] = "BeautifulPrompt"
    always_on: ClassVar[bool] = True
    order: ClassVar[int] = -100
    """Before scripts that look at the prompt."""

    args: ClassVar[Sequence[Argument]] = (
        Argument("enabled", False, "Expand the prompt"),
        Argument("model", DEFAULT, "Model"),
        Argument("each_picture", False, "Another prompt for each picture"),
        Argument("seed", -1, "Seed", -1, LARGEST_SEED, 1),
        Argument("max_new_tokens", 100, "Longest addition, in tokens", 1, LONGEST_RESULT, 1),
        Argument("temperature", None, "Temperature", 0, 5, 0.05),
        Argument("top_k", 50, "Top k", 0, 1000, 1),
        Argument("top_p", 0.95, "Top p", 0.01, 1, 0.01),
        Argument("repetition_penalty", None, "Repetition penalty", 0.1, 5, 0.05),
    )

    def arguments_for(self, kind: Kind, files: Files) -> Sequence[Argument]:
        choices = (DEFAULT, *Library(files.models_dirs).names())
        return [replace(argument, choices=choices) if argument.name == "model" else argument for argument in self.args]

    def read(self, given: object, kind: Kind, files: Files, field: str) -> Arguments:
        """An object that does not say `enabled` means yes. Raises BadRequest naming what is wrong."""
        arguments = super().read(given, kind, files, field)
        inner = given[0] if isinstance(given, list) and len(given) == 1 else given
        if isinstance(inner, Mapping) and not {"enabled", "expand the prompt"} & {str(key).lower() for key in inner}:
            arguments = Arguments({**arguments, "enabled": True})
        for argument in self.args:
            value = arguments[argument.name]
            if argument.minimum is None or argument.maximum is None or value is None:
                continue
            place = f"{field}.{argument.name}"
            if isinstance(argument.default, int):
                whole(value, int(argument.minimum), int(argument.maximum), argument.label, place)
            else:
                number(value, argument.minimum, argument.maximum, argument.label, place)
        if arguments.enabled:
            Library(files.models_dirs).find(str(arguments.model), f"{field}.model")
        return arguments

    def hooks(self, request: GenerationRequest, args: Arguments) -> Hooks | None:
        return Expanding(args) if args.enabled else None


class Expanding(Hooks):
    """One request's prompts: expanded before they are laid out, the same ones in every run of the same seed."""

    def __init__(self, args: Arguments) -> None:
        self._args = args
        self._prompts: list[str] = []

    def before_process(self, request: GenerationRequest, run: Running) -> GenerationRequest:
        prompt = strip_comments(request.prompt) if request.options.enable_prompt_comments else request.prompt
        if not prompt.strip():
            run.warnings.append("BeautifulPrompt: there is no prompt to expand")
            return request
        text, wanted = checked(prompt), request.batch_size * request.n_iter if self._args.each_picture else 1
        seed = self._args.seed if self._args.seed >= 0 else request.seed
        for start in range(0, wanted, MOST_RESULTS):
            found = self._expand(text, seed + start, min(MOST_RESULTS, wanted - start), run)
            self._prompts += found.prompts
        run.infotext["BeautifulPrompt model"] = found.model
        run.infotext["BeautifulPrompt from"] = text
        if seed != request.seed:
            run.infotext["BeautifulPrompt seed"] = seed
        return replace(request, prompt=self._prompts[0])

    def _expand(self, text: str, seed: int, count: int, run: Running) -> Expansion:
        args, job = self._args, run.job
        model = Library(run.files.models_dirs).find(args.model, "alwayson_scripts.BeautifulPrompt.args.model")
        sampling = Sampling(
            count, seed % (LARGEST_SEED + 1), args.max_new_tokens, args.temperature, args.top_k, args.top_p,
            args.repetition_penalty,
        )  # fmt: skip

        def on_tokens(number: int) -> bool:
            job.check()
            job.set_text(f"BeautifulPrompt: {number} tokens")
            return job.interrupted

        try:
            return expand(text, model, sampling, run.lend_network, job, on_tokens)
        finally:
            job.set_text(None)

    def process(self, draft: Draft, run: Running) -> Draft:
        """Each picture its own, styles around it as they are."""
        if len(self._prompts) < 2:
            return draft
        plan, first = draft.plan, self._prompts[0]
        return replace(
            draft,
            plan=replace(
                plan,
                prompts=_each(plan.prompts, first, self._prompts),
                hires_prompts=_each(plan.hires_prompts, first, self._prompts),
            ),
        )


def _each(prompts: Sequence[str], first: str, own: Sequence[str]) -> tuple[str, ...]:
    return tuple(prompt.replace(first, mine, 1) for prompt, mine in zip(prompts, own, strict=True))
