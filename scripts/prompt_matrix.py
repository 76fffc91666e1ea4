"""Prompt matrix: `a|b|c` becomes the pictures of a, a b, a c and a b c."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.plan import plan_generation
from sdwebui_api.generation.request import GeneratedImage
from sdwebui_api.imaging.annotations import Annotation, Label, annotate_grid
from sdwebui_api.imaging.grid import image_grid
from sdwebui_api.scripting.checks import MAX_MARGIN, one_of, whole
from sdwebui_api.scripting.hooks import (
    Argument,
    Arguments,
    Draft,
    Files,
    GenerationRequest,
    GenerationResult,
    Hooks,
    Running,
    Script,
    ScriptContext,
)
from sdwebui_api.scripting.results import pictures
from sdwebui_api.scripting.xyz.sheets import grid_colours

MAX_PARTS = 11
"""2^10 pictures; A1111 has no limit."""
DELIMITERS = {"comma": ", ", "space": " "}


class PromptMatrix(Script):
    title = "Prompt matrix"
    args = (
        Argument("put_at_start", False, "Put variable parts at start of prompt"),
        Argument("different_seeds", False, "Use different seed for each picture"),
        Argument("prompt_type", "positive", "Select prompt", choices=("positive", "negative")),
        Argument("variations_delimiter", "comma", "Select joining char", choices=("comma", "space")),
        Argument("margin_size", 0, "Grid margins (px)", 0, 500, 2),
    )

    def run(self, request: GenerationRequest, args: Arguments, context: ScriptContext) -> GenerationResult:
        which = one_of(args.prompt_type, ("positive", "negative"), "Select prompt")
        delimiter = DELIMITERS[one_of(args.variations_delimiter, DELIMITERS, "Select joining char")]
        whole(args.margin_size, 0, MAX_MARGIN, "Grid margins (px)")
        parts = (request.prompt if which == "positive" else request.negative_prompt).split("|")
        if len(parts) > MAX_PARTS:
            raise BadRequest(f"more than {MAX_PARTS - 1} variable parts", field="prompt")
        prompts = combinations(parts, delimiter, at_start=args.put_at_start)
        combined = replace(request, n_iter=math.ceil(len(prompts) / request.batch_size), do_not_save_grid=True)
        hooks = _EveryPrompt(prompts, context.files, negative=which == "negative", different_seeds=args.different_seeds)
        result = context.generate(combined, hooks=[hooks])
        if not result.images:
            return result
        return self._with_grid(result, parts, request, args, context)

    def _with_grid(
        self,
        result: GenerationResult,
        parts: Sequence[str],
        request: GenerationRequest,
        args: Arguments,
        context: ScriptContext,
    ) -> GenerationResult:
        images = pictures(result)
        columns, rows = labels(parts[1:])
        sheet = image_grid(images, rows=len(rows), background=request.options.grid_background_color)
        sheet = annotate_grid(
            sheet,
            images[0].size,
            columns,
            rows,
            margin=args.margin_size,
            colours=grid_colours(request.options),
            font=request.options.font,
        )
        infotext = result.info["infotexts"][0]
        if request.options.grid_save and not request.do_not_save_grid:
            context.save(sheet, request, infotext, grid=True, suffix="-prompt_matrix")
        info = {**result.info, "index_of_first_image": 1, "infotexts": [infotext, *result.info["infotexts"]]}
        return GenerationResult([GeneratedImage(sheet, infotext, "grid", described=False), *result.images], info)


def combinations(parts: Sequence[str], delimiter: str, *, at_start: bool) -> list[str]:
    """The first part with every selection of the others, counted in binary: the second part comes and goes fastest."""
    fixed, *variable = parts
    prompts = []
    for selection in range(2 ** len(variable)):
        chosen = [text.strip().strip(",") for place, text in enumerate(variable) if selection & 1 << place]
        prompts.append(delimiter.join([*chosen, fixed] if at_start else [fixed, *chosen]))
    return prompts


def labels(variable: Sequence[str]) -> tuple[list[Label], list[Label]]:
    """Of the columns and of the rows: all variable parts of that direction, those left out inactive."""
    across = math.ceil(len(variable) / 2)

    def side(parts: Sequence[str]) -> list[Label]:
        return [
            [Annotation(text, bool(selection & 1 << place)) for place, text in enumerate(parts)]
            for selection in range(2 ** len(parts))
        ]

    return side(variable[:across]), side(variable[across:])


class _EveryPrompt(Hooks):
    """Gives each picture its combination, and all of them one seed unless they are to differ."""

    def __init__(self, prompts: Sequence[str], files: Files, *, negative: bool, different_seeds: bool) -> None:
        self._prompts = prompts
        self._negative = negative
        self._files = files
        self._different_seeds = different_seeds

    def process(self, draft: Draft, run: Running) -> Draft:
        styles = self._files.styles.all()
        plans = [plan_generation(self._with(draft.request, prompt), styles) for prompt in self._prompts]
        count, first = len(plans), draft.plan.seeds[0]
        plan = replace(
            draft.plan,
            prompts=tuple(plan.prompts[0] for plan in plans),
            negative_prompts=tuple(plan.negative_prompts[0] for plan in plans),
            hires_prompts=tuple(plan.hires_prompts[0] for plan in plans),
            hires_negative_prompts=tuple(plan.hires_negative_prompts[0] for plan in plans),
            seeds=tuple(first + index * self._different_seeds for index in range(count)),
            subseeds=draft.plan.subseeds[:count],
        )
        return replace(draft, plan=plan)

    def _with(self, request: GenerationRequest, prompt: str) -> GenerationRequest:
        return replace(request, negative_prompt=prompt) if self._negative else replace(request, prompt=prompt)
