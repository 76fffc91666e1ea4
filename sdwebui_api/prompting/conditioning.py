"""What guides each step: schedules of encoded prompts, combined by `AND`, chosen by step.

Follows A1111's `prompt_parser`: `get_learned_conditioning`, `get_multicond_learned_conditioning` and the two
`reconstruct_…_batch` functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdwebui_api.prompting.chunks import CHUNK_LENGTH
from sdwebui_api.prompting.composition import parse_composition
from sdwebui_api.prompting.encoding import TextConditioner, TextReport, TextSettings
from sdwebui_api.prompting.limits import check_chunks
from sdwebui_api.prompting.schedule import parse_schedules


@dataclass(frozen=True)
class PromptTiming:
    """The steps that prompt editing counts. `hires_steps` is set for the hires pass; `steps` are the first pass's.

    Both are what the sampler counts: twice the requested number for second-order samplers.
    """

    steps: int
    hires_steps: int | None = None
    use_old: bool = False
    """Option `use_old_scheduling`."""


@dataclass(frozen=True)
class ScheduledConditioning:
    """One prompt over time: `tensors[i]` [77 * n, D], and `pooled[i]` [P] where the model knows it, hold up to and
    including step `ends[i]`."""

    ends: tuple[int, ...]
    tensors: tuple[Tensor, ...]
    pooled: tuple[Tensor, ...] | None = None

    def at(self, step: int) -> Tensor:
        """The tensor for `step`. Beyond the last end it is the first one again, as in A1111."""
        return self.tensors[self._index(step)]

    def pooled_at(self, step: int) -> Tensor:
        """The pooled vector [P] for `step`. Only where there is one."""
        assert self.pooled is not None
        return self.pooled[self._index(step)]

    def _index(self, step: int) -> int:
        return next((i for i, end in enumerate(self.ends) if step <= end), 0)


@dataclass(frozen=True)
class StepConditioning:
    """One step's conditioning: `cond` [K, 77 * n, D]; image i is guided to rows `index` with `weight` for each
    (index, weight) in `parts[i]`. Rows are in the order of images, then of their `AND` parts.
    """

    cond: Tensor
    parts: list[list[tuple[int, float]]]


@dataclass(frozen=True)
class BatchConditioning:
    """The prompts of a batch of images, each one or several (weight, schedule)."""

    images: tuple[tuple[tuple[float, ScheduledConditioning], ...], ...]
    report: TextReport

    def at(self, step: int) -> StepConditioning:
        """The conditioning of `step`, counted from 0 as samplers do."""
        tensors: list[Tensor] = []
        parts: list[list[tuple[int, float]]] = []
        for image in self.images:
            parts.append([(len(tensors) + i, weight) for i, (weight, _) in enumerate(image)])
            tensors += [schedule.at(step) for _, schedule in image]
        return StepConditioning(stack_padded(tensors), parts)

    def pooled_at(self, step: int) -> Tensor:
        """[K, P]: the pooled vectors of all parts, in the order of their rows."""
        return torch.stack([schedule.pooled_at(step) for image in self.images for _, schedule in image])


@dataclass(frozen=True)
class UncondSchedule:
    """The negative prompts of a batch of images."""

    images: tuple[ScheduledConditioning, ...]
    report: TextReport

    def at(self, step: int) -> Tensor:
        """[B, 77 * n, D] for `step`, counted from 0."""
        return stack_padded([schedule.at(step) for schedule in self.images])

    def pooled_at(self, step: int) -> Tensor:
        """[B, P], as `BatchConditioning.pooled_at`."""
        return torch.stack([schedule.pooled_at(step) for schedule in self.images])


@dataclass(frozen=True)
class LabelSchedule:
    """The second input of models that are told picture sizes (SDXL): their "label embedding", over time."""

    cond: BatchConditioning
    uncond: UncondSchedule
    label: Callable[[Tensor], Tensor]
    """Pooled vectors of prompts [K, P] to labels [K, V]."""
    label_negative: Callable[[Tensor], Tensor]

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """([K, V], [B, V]) of the prompts' parts and of the negative prompts at `step`."""
        return self.label(self.cond.pooled_at(step)), self.label_negative(self.uncond.pooled_at(step))


def build_conditioning(
    prompts: Sequence[str], timing: PromptTiming, conditioner: TextConditioner, settings: TextSettings
) -> BatchConditioning:
    """Encode the prompts of a batch of images, each of which may combine several with `AND`.

    Every text is encoded once, those that one prompt takes over time together. Raises BadRequest(field="prompt").
    """
    composed = [parse_composition(prompt) for prompt in prompts]
    texts = [part.text for parts in composed for part in parts]
    schedules, report = _encode_schedules(texts, timing, conditioner, settings)
    images = tuple(tuple((part.weight, schedules[part.text]) for part in parts) for parts in composed)
    return BatchConditioning(images, report)


def build_uncond(
    negative_prompts: Sequence[str], timing: PromptTiming, conditioner: TextConditioner, settings: TextSettings
) -> UncondSchedule:
    """Encode the negative prompts of a batch of images. `AND` is a plain word in them.

    With a pooled vector, one that is empty all the time is zeros and not the encoding of an empty text (A1111
    `sd_models_xl.get_learned_conditioning`).
    """
    schedules, report = _encode_schedules(negative_prompts, timing, conditioner, settings)
    if "" in schedules:
        schedules[""] = _zeros_where_pooled(schedules[""])
    return UncondSchedule(tuple(schedules[prompt] for prompt in negative_prompts), report)


def _zeros_where_pooled(schedule: ScheduledConditioning) -> ScheduledConditioning:
    if schedule.pooled is None:
        return schedule
    zeros = tuple(torch.zeros_like(tensor) for tensor in schedule.tensors)
    return replace(schedule, tensors=zeros, pooled=tuple(torch.zeros_like(vector) for vector in schedule.pooled))


def stack_padded(tensors: Sequence[Tensor]) -> Tensor:
    """[K, T, D] of K tensors [t, D]: the shorter ones repeat their last vector up to the longest one's T."""
    length = max(tensor.shape[0] for tensor in tensors)
    check_chunks(len(tensors) * (length // (CHUNK_LENGTH + 2)))
    padded = [
        torch.cat([tensor, tensor[-1:].expand(length - tensor.shape[0], -1)]) if tensor.shape[0] < length else tensor
        for tensor in tensors
    ]
    return torch.stack(padded)


def _encode_schedules(
    prompts: Sequence[str], timing: PromptTiming, conditioner: TextConditioner, settings: TextSettings
) -> tuple[dict[str, ScheduledConditioning], TextReport]:
    distinct = list(dict.fromkeys(prompts))
    result: dict[str, ScheduledConditioning] = {}
    report = TextReport()
    schedules = parse_schedules(distinct, timing.steps, timing.hires_steps, timing.use_old)
    for prompt, schedule in zip(distinct, schedules, strict=True):
        encoded = conditioner.encode([entry.text for entry in schedule], settings)
        ends = tuple(entry.end_at_step for entry in schedule)
        result[prompt] = ScheduledConditioning(ends, encoded.tensors, encoded.pooled)
        report = encoded.report.after(report)
    return result, report
