"""From a few words to prompts, within a job: finds the model, keeps networks out of its sight, tells how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from beautiful_prompt.grammar import GRAMMARS
from beautiful_prompt.library import LanguageModelFolder
from beautiful_prompt.sampling import LONGEST_TEXT, OnTokens, Sampling
from sdwebui_api.errors import BadRequest, PayloadTooLarge
from sdwebui_api.jobs.job import Job
from sdwebui_api.prompting.extra_networks import ExtraNetwork, parse_extra_networks
from sdwebui_api.scripting.hooks import LendsNetworks


@dataclass(frozen=True)
class Expansion:
    """What came of one text."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    model: str


def checked(text: str, field: str = "prompt") -> str:
    """`text` as a model may see it. Raises BadRequest when there is nothing in it, or too much."""
    text = text.strip()
    if not text:
        raise BadRequest("There is nothing to expand: a few words are needed", field=field)
    if len(text) > LONGEST_TEXT:
        raise PayloadTooLarge(f"At most {LONGEST_TEXT} characters can be expanded", field=field)
    return text


def expand(
    text: str, model: LanguageModelFolder | str, sampling: Sampling, lend: LendsNetworks, job: Job, on_tokens: OnTokens
) -> Expansion:
    """`model` as `Library.find` has it; `sampling` with its seed drawn. `<lora:…>` tags come back behind each prompt.

    Raises Cancelled, UnusableModel, BadRequest, OutOfMemory.
    """
    job.check()
    words, networks = parse_extra_networks(text)
    words = words.strip(" ,\n")
    if not words:
        name = model if isinstance(model, str) else model.name
        return Expansion((text,) * sampling.count, sampling.seeds, name)
    if isinstance(model, str):
        found = GRAMMARS[model].expand(words, sampling)
        return Expansion(_with(found, networks), sampling.seeds, model)
    return Expansion(_with(_ask(words, model, sampling, lend, job, on_tokens), networks), sampling.seeds, model.name)


def _ask(
    words: str, folder: LanguageModelFolder, sampling: Sampling, lend: LendsNetworks, job: Job, on_tokens: OnTokens
) -> list[str]:
    from beautiful_prompt.language_model import LanguageModel, load_language_model  # torch

    template = folder.template()
    sampling = sampling.with_defaults(template.temperature, template.repetition_penalty)
    with lend(folder.path, load_language_model, LanguageModel, job.set_text) as model:
        job.set_text(None)
        found = model.continue_text(template.question(words), sampling, chat=template.chat, on_tokens=on_tokens)
    return [template.answer(words, one.text, complete=one.complete) for one in found]


def _with(prompts: Sequence[str], networks: Sequence[ExtraNetwork]) -> tuple[str, ...]:
    tags = "".join(f" <{network.kind}:{':'.join(network.items)}>" for network in networks)
    return tuple(f"{prompt}{tags}" for prompt in prompts)
