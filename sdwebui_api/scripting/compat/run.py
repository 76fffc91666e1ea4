"""`process_images(p)`: an extension's own generation, within the job that is running."""

from __future__ import annotations

from typing import Any

from sdwebui_api.generation.request import GenerationRequest
from sdwebui_api.scripting.chain import Part
from sdwebui_api.scripting.compat import translate
from sdwebui_api.scripting.compat.adapter import LegacyHooks
from sdwebui_api.scripting.compat.processing import Processed, processed_from, request_of
from sdwebui_api.scripting.compat.world import JobView, job_view, world
from sdwebui_api.scripting.hooks import Draft, Hooks, Running


def process_images(p: Any) -> Processed:
    """Runs `p` with the scripts in `p.scripts` (none: without any). Raises RuntimeError outside of a job."""
    found = job_view("process_images")
    request = request_of(p, found.request)
    lists = {name: getattr(p, name) for name in ("prompt", "negative_prompt", "seed", "subseed")}
    lists = {name: value for name, value in lists.items() if isinstance(value, (list, tuple))}
    result = found.context.generate(
        request,
        hooks=(_Lists(lists),) if lists else (),
        infotext=dict(p.extra_generation_params or {}),
        parts=lambda wanted, run: _parts(p, found, wanted, run),
    )
    return processed_from(p, result)


process_images_inner = process_images


def _parts(p: Any, found: JobView, request: GenerationRequest, run: Running) -> list[Part]:
    if p.scripts is None:
        return []
    legacy = LegacyHooks(world(), p.scripts, tuple(p.script_args), p)
    return [*found.native_parts(request, run), Part("extensions", legacy)]


class _Lists(Hooks):
    """`p.prompt` and the like as lists: one value per picture."""

    def __init__(self, lists: dict[str, Any]) -> None:
        self._lists = lists

    def process(self, draft: Draft, run: Running) -> Draft:
        names = {"prompt": "all_prompts", "negative_prompt": "all_negative_prompts"}
        changed: dict[str, Any] = {names[name]: self._lists[name] for name in names if name in self._lists}
        for name in ("seed", "subseed"):
            if name in self._lists:
                changed[f"all_{name}s"] = [translate.fixed_seed(seed) for seed in self._lists[name]]
        if "all_prompts" in changed and draft.request.hires is not None and not draft.request.hires.prompt:
            changed["all_hr_prompts"] = changed["all_prompts"]
        return Draft(draft.request, translate.plan_from(draft.plan, changed), draft.batch)
