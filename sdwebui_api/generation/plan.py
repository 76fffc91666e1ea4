"""Which prompt and which seeds every image of a request gets, fixed before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class GenerationPlan:
    """Prompts and seeds of all images, in the order of the result.

    Prompts have styles applied and comments removed but still hold their `<lora:…>` tags, which the infotext
    shows; `batch` drops them. In negative prompts such a tag is plain text, as in A1111.
    """

    main: PromptPair
    hires: PromptPair
    """What the hires pass is conditioned on."""
    seeds: tuple[int, ...]
    subseeds: tuple[int, ...]
    batch_size: int

    @property
    def image_count(self) -> int:
        return len(self.seeds)

    def batch(self, index: int, pair: PromptPair | None = None) -> Batch:
        """The `index`-th batch, conditioned on `pair` (the main prompts unless given)."""
        pair = pair or self.main
        seeds = self.seeds[index * self.batch_size : (index + 1) * self.batch_size]
        subseeds = self.subseeds[index * self.batch_size : (index + 1) * self.batch_size]
        prompt, _ = parse_extra_networks(pair.prompt)
        return Batch(index, (prompt,) * len(seeds), (pair.negative_prompt,) * len(seeds), seeds, subseeds)


def plan_generation(request: GenerationRequest, styles: Sequence[Style]) -> GenerationPlan:
    """Seeds count up per image; with a variation strength only the variation seeds do (A1111)."""
    count = request.batch_size * request.n_iter
    step = 1 if request.subseed_strength == 0 else 0
    hires = request.hires or HiresPass()
    main = _prompt_pair(request, styles, request.prompt, request.negative_prompt)
    return GenerationPlan(
        main=main,
        hires=_prompt_pair(
            request, styles, hires.prompt or request.prompt, hires.negative_prompt or request.negative_prompt
        ),
        seeds=tuple(request.seed + index * step for index in range(count)),
        subseeds=tuple(request.subseed + index for index in range(count)),
        batch_size=request.batch_size,
    )


def _prompt_pair(request: GenerationRequest, styles: Sequence[Style], prompt: str, negative_prompt: str) -> PromptPair:
    prompt, negative_prompt = apply_styles(prompt, negative_prompt, request.styles, styles)
    if request.options.enable_prompt_comments:
        prompt, negative_prompt = strip_comments(prompt), strip_comments(negative_prompt)
    return PromptPair(prompt, negative_prompt)
