"""Prompts from file or textbox: one generation per line, each with options of its own."""

from __future__ import annotations

import random
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.request import (
    LARGEST_RANDOM_SEED,
    MAX_PIXELS_PER_BATCH,
    MAX_SIDE,
    GenerationRequest,
    GenerationResult,
)
from sdwebui_api.scripting.hooks import Argument, Arguments, Script, ScriptContext
from sdwebui_api.scripting.results import Collected
from sdwebui_api.scripting.xyz.lookups import set_checkpoint

MAX_LINES = 1000


class PromptsFromFile(Script):
    title = "Prompts from file or textbox"
    args = (
        Argument("iterate_seed", False, "Iterate seed every line"),
        Argument("same_seed", False, "Use same random seed for all lines"),
        Argument("prompt_position", "start", "Insert prompts at the", choices=("start", "end")),
        Argument("prompts", "", "List of prompt inputs"),
    )

    def run(self, request: GenerationRequest, args: Arguments, context: ScriptContext) -> GenerationResult:
        texts = [line for line in args.prompts.splitlines() if line.strip()]
        if not 0 < len(texts) <= MAX_LINES:
            raise BadRequest(f"from 1 to {MAX_LINES} prompts, one per line", field="script_args[3]")
        lines = [read_line(line, context) for line in texts]
        base = replace(request, do_not_save_grid=True)
        step = request.batch_size * request.n_iter if args.iterate_seed else 0
        jumps = request.random_seed and not args.iterate_seed and not args.same_seed
        wanted = []
        for index, line in enumerate(lines):
            seed = random.randrange(LARGEST_RANDOM_SEED) if jumps and index else request.seed + index * step
            wanted.append(apply_line(replace(base, seed=seed), line, args.prompt_position, context))
        return self._generate(wanted, request.seed + step * len(lines), context)

    def _generate(self, wanted: Sequence[GenerationRequest], seed: int, context: ScriptContext) -> GenerationResult:
        context.set_total(sum(one.n_iter * (2 if one.hires else 1) for one in wanted))
        collected = Collected()
        for index, one in enumerate(wanted):
            context.job.start_batch(f"{index + 1} out of {len(wanted)}", one.steps)
            collected.add(context.generate(one))
            if context.job.interrupted:
                break
        return _answer(collected, wanted[0], seed)


def read_line(line: str, context: ScriptContext) -> dict[str, Any]:
    """The fields of the request that a line changes: those it names as options, else its text as prompt."""
    if "--" not in line:
        return {"prompt": line.strip()}
    try:
        return read_options(line)
    except ValueError as error:
        context.warn(f"{PromptsFromFile.title}: {error}; the whole line is the prompt: {line.strip()[:200]}")
        return {"prompt": line.strip()}


def read_options(line: str) -> dict[str, Any]:
    """`--prompt "a dog" --steps 6`. Raises ValueError when the line is no such thing."""
    words = shlex.split(line)
    found: dict[str, Any] = {}
    while words:
        option = words.pop(0)
        if not option.startswith("--"):
            raise ValueError(f'must start with "--": {option}')
        name = option[2:]
        if not words:
            raise ValueError(f"missing argument for command line option {option}")
        if name in PROMPTS:
            text = [words.pop(0)]
            while words and not words[0].startswith("--"):
                text.append(words.pop(0))
            found[name] = " ".join(text)
        elif name in OPTIONS:
            found[name] = OPTIONS[name](words.pop(0))
        else:
            raise ValueError(f"unknown commandline option: {option}")
    return found


def apply_line(
    request: GenerationRequest, line: Mapping[str, Any], position: str, context: ScriptContext
) -> GenerationRequest:
    """`request` as the line wants it. Raises BadRequest and NotFound for values that cannot be."""
    fields = {name: value for name, value in line.items() if name in _PLAIN_FIELDS}
    _check(request, fields)
    request = replace(request, **fields)
    if "styles" in line:
        request = replace(request, styles=tuple(name.strip() for name in line["styles"].split(",")))
    if "sampler_name" in line:
        sampler, _ = context.sampler_names(line["sampler_name"], None, sampler_field="script_args[3]")
        request = replace(request, sampler=sampler)
    if "sd_model" in line:
        request = set_checkpoint(request, line["sd_model"], (), context)
    for name in PROMPTS:
        if line.get(name):
            own = getattr(request, name)
            parts = (line[name], own) if position == "start" else (own, line[name])
            changes: dict[str, Any] = {name: " ".join(part for part in parts if part)}
            request = replace(request, **changes)
    return request


def _check(request: GenerationRequest, fields: Mapping[str, Any]) -> None:
    for name, (low, high) in _LIMITS.items():
        if name in fields and not low <= fields[name] <= high:
            raise BadRequest(f"{name} goes from {low} to {high}, not to {fields[name]}", field="script_args[3]")
    width, height = fields.get("width", request.width), fields.get("height", request.height)
    if width * height * fields.get("batch_size", request.batch_size) > MAX_PIXELS_PER_BATCH:
        raise BadRequest(f"pictures of {width}x{height} are too many or too large", field="script_args[3]")


def _answer(collected: Collected, first: GenerationRequest, seed: int) -> GenerationResult:
    """All pictures; of what they were made with, A1111 tells only what they have in common."""
    infos = [result.info for result in collected.results]
    info = {
        **infos[0],
        "all_prompts": [prompt for one in infos for prompt in one["all_prompts"]],
        "infotexts": [text for one in infos for text in one["infotexts"]],
        "seed": seed,
        "all_seeds": [seed],
        "subseed": -1,
        "all_subseeds": [-1],
        "warnings": collected.warnings,
    }
    unknown = ("restore_faces", "sd_model_name", "sd_model_hash", "sd_vae_name", "sd_vae_hash")
    info |= dict.fromkeys((*unknown, "face_restoration_model"))
    return GenerationResult([image for result in collected.results for image in result.images], info)


def _switch(text: str) -> bool:
    return text == "true"


PROMPTS = ("prompt", "negative_prompt")
OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "sd_model": str,
    "outpath_samples": str,
    "outpath_grids": str,
    "prompt_for_display": str,
    "styles": str,
    "seed": int,
    "subseed_strength": float,
    "subseed": int,
    "seed_resize_from_h": int,
    "seed_resize_from_w": int,
    "sampler_index": int,
    "sampler_name": str,
    "batch_size": int,
    "n_iter": int,
    "steps": int,
    "cfg_scale": float,
    "width": int,
    "height": int,
    "restore_faces": _switch,
    "tiling": _switch,
    "do_not_save_samples": _switch,
    "do_not_save_grid": _switch,
}
"""What a line may set. Folders, the displayed prompt and the sampler's index are read and have no effect here."""
_LIMITS = {
    "seed": (-(2**63), 2**63 - 1),
    "subseed": (-(2**63), 2**63 - 1),
    "subseed_strength": (0, 1),
    "seed_resize_from_h": (-1, MAX_SIDE),
    "seed_resize_from_w": (-1, MAX_SIDE),
    "batch_size": (1, 128),
    "n_iter": (1, 1000),
    "steps": (1, 1000),
    "cfg_scale": (-1e4, 1e4),
    "width": (8, MAX_SIDE),
    "height": (8, MAX_SIDE),
}
_PLAIN_FIELDS = (*_LIMITS, "restore_faces", "tiling", "do_not_save_samples", "do_not_save_grid")
