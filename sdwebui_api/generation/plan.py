"""Which prompt and which seeds every image of a request gets, fixed before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sdwebui_api.catalog.styles import Style
from sdwebui_api.generation.request import GenerationRequest, HiresPass
from sdwebui_api.prompting.comments import strip_comments
from sdwebui_api.prompting.extra_networks import parse_extra_networks
from sdwebui_api.prompting.styles import apply_styles


@dataclass(frozen=True)
class PromptPair:
    prompt: str
    negative_prompt: str


@dataclass(frozen=True)
class Batch:
    """The images that are sampled together: one value per image in every tuple."""

    index: int
    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    subseeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.seeds)

    def without_networks(self) -> Batch:
        """The same with `<lora:…>` tags taken out of the prompts. In negative prompts they are plain text (A1111)."""
        return replace(self, prompts=tuple(parse_extra_networks(prompt)[0] for prompt in self.prompts))


@dataclass(frozen=True)
class GenerationPlan:
    """Prompts and seeds of all images, in the order of the result: one value per image in every tuple.

    Prompts have styles applied and comments removed but still hold their `<lora:…>` tags, which the infotext
    shows; `batch` drops them.
    """

    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...]
    hires_prompts: tuple[str, ...]
    """What the hires pass is conditioned on."""
    hires_negative_prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    subseeds: tuple[int, ...]
    batch_size: int
    """Pictures at once. Several start images, fewer than the request's batch size, make it smaller; the seeds that are
    left over then stay in `info` (A1111)."""

    @property
    def main(self) -> PromptPair:
        """The first image's."""
        return PromptPair(self.prompts[0], self.negative_prompts[0])

    @property
    def image_count(self) -> int:
        return len(self.seeds)

    def full_batch(self, index: int, *, hires: bool = False) -> Batch:
        """The `index`-th batch with the prompts of the first or of the hires pass, tags included."""
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        prompts, negative_prompts = self.prompts, self.negative_prompts
        if hires:
            prompts, negative_prompts = self.hires_prompts, self.hires_negative_prompts
        return Batch(index, prompts[part], negative_prompts[part], self.seeds[part], self.subseeds[part])

    def batch(self, index: int, *, hires: bool = False) -> Batch:
        """The `index`-th batch as it is encoded."""
        return self.full_batch(index, hires=hires).without_networks()


def plan_generation(request: GenerationRequest, styles: Sequence[Style]) -> GenerationPlan:
    """Seeds count up per image; with a variation strength only the variation seeds do (A1111)."""
    count = request.batch_size * request.n_iter
    starts = len(request.init.images) if request.init else 0
    step = 1 if request.subseed_strength == 0 else 0
    hires = request.hires or HiresPass()
    main = _prompt_pair(request, styles, request.prompt, request.negative_prompt)
    second = _prompt_pair(
        request, styles, hires.prompt or request.prompt, hires.negative_prompt or request.negative_prompt
    )
    return GenerationPlan(
        prompts=(main.prompt,) * count,
        negative_prompts=(main.negative_prompt,) * count,
        hires_prompts=(second.prompt,) * count,
        hires_negative_prompts=(second.negative_prompt,) * count,
        seeds=tuple(request.seed + index * step for index in range(count)),
        subseeds=tuple(request.subseed + index for index in range(count)),
        batch_size=min(request.batch_size, starts) if starts > 1 else request.batch_size,
    )


def _prompt_pair(request: GenerationRequest, styles: Sequence[Style], prompt: str, negative_prompt: str) -> PromptPair:
    prompt, negative_prompt = apply_styles(prompt, negative_prompt, request.styles, styles)
    if request.options.enable_prompt_comments:
        prompt, negative_prompt = strip_comments(prompt), strip_comments(negative_prompt)
    return PromptPair(prompt, negative_prompt)
