"""`modules.prompt_parser`: the prompt grammar."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from sdwebui_api.prompting.attention import parse_attention
from sdwebui_api.prompting.composition import parse_composition
from sdwebui_api.prompting.schedule import parse_schedules

ScheduledPromptConditioning = namedtuple("ScheduledPromptConditioning", ["end_at_step", "cond"])


class SdConditioning(list):
    """Prompts, with the size of the picture for the models that want to know it."""

    def __init__(
        self,
        prompts: Any,
        is_negative_prompt: bool = False,
        width: Any = None,
        height: Any = None,
        copy_from: Any = None,
    ) -> None:
        super().__init__(prompts)
        source = copy_from if copy_from is not None else prompts
        self.is_negative_prompt = is_negative_prompt or getattr(source, "is_negative_prompt", False)
        self.width = width or getattr(source, "width", None)
        self.height = height or getattr(source, "height", None)


def parse_prompt_attention(text: str) -> list[list[Any]]:
    """[[text, weight], …]; a BREAK is ["BREAK", -1]."""
    return [list(part) for part in parse_attention(text)]


def get_learned_conditioning_prompt_schedules(
    prompts: Any, base_steps: int, hires_steps: int | None = None, use_old_scheduling: bool = False
) -> list[list[list[Any]]]:
    """Per prompt, [[last step, text], …]."""
    schedules = parse_schedules(list(prompts), base_steps, hires_steps, use_old_scheduling)
    return [[[entry.end_at_step, entry.text] for entry in schedule] for schedule in schedules]


def get_multicond_prompt_list(prompts: Any) -> tuple[Any, Any, Any]:
    """(indexes of the parts per prompt, flat list of texts, text → its place in the list)."""
    flat: list[str] = []
    places: dict[str, int] = {}
    indexes = []
    for prompt in prompts:
        row = []
        for part in parse_composition(prompt):
            if part.text not in places:
                places[part.text] = len(flat)
                flat.append(part.text)
            row.append((places[part.text], part.weight))
        indexes.append(row)
    return indexes, flat, places


def reconstruct_cond_batch(c: Any, current_step: int) -> Any:
    """The negative prompts' tensor of a step, from the `uc` that hooks are given."""
    return c.at(current_step)


def reconstruct_multicond_batch(c: Any, current_step: int) -> tuple[Any, Any]:
    """(parts per image, tensor) of a step, from the `c` that hooks are given."""
    step = c.at(current_step)
    return step.parts, step.cond
