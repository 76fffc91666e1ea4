"""A causal language model from disk, and drawing texts from it. Runs on the engine's device, in jobs only."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from beautiful_prompt.sampling import OnTokens, Sampling
from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.libraries import prepare_torch
from sdwebui_api.errors import BadRequest, UnusableModel


@dataclass(frozen=True)
class Continuation:
    """complete: the model came to an end of its own."""

    text: str
    complete: bool


class LanguageModel:
    """Any `AutoModelForCausalLM`."""

    def __init__(self, model: Any, tokenizer: Any, device: Device) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._device = device
        self._ends = _end_tokens(model, tokenizer)
        self._parameters = inspect.signature(model.forward).parameters

    def continue_text(
        self, text: str, sampling: Sampling, *, chat: bool = False, on_tokens: OnTokens = lambda count: False
    ) -> list[Continuation]:
        """One continuation of `text` for each of the seeds, each the same whatever the others are, as far as the
        device computes a batch as it computes one row.

        Raises BadRequest when the text leaves no room, OutOfMemory.
        """
        tokens = self._tokens(text, chat)
        most = self._room(tokens.shape[1], sampling.max_new_tokens)
        processors = _processors(sampling)
        dice = [torch.Generator().manual_seed(seed) for seed in sampling.seeds]
        rows = tokens.expand(len(dice), -1)
        logits, past = self._read_once(tokens, len(dice))
        lengths = [most] * len(dice)
        for count in range(1, most + 1):
            given = _draw(processors(rows, logits), dice, greedy=sampling.temperature == 0)
            rows = torch.cat([rows, given], dim=1)
            for number, token in enumerate(given[:, 0].tolist()):
                if token in self._ends:
                    lengths[number] = min(lengths[number], count - 1)
            if on_tokens(count) or max(lengths) < count or count == most:
                break
            logits, past = self._evaluate(given, rows.shape[1], past)
        made = rows[:, tokens.shape[1] :]
        return [self._read(row, length) for row, length in zip(made, lengths, strict=True)]

    def _tokens(self, text: str, chat: bool) -> Tensor:
        """[1, n] on the CPU, n at least 1."""
        if chat:
            messages = [{"role": "user", "content": text}]
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        numbers = self._tokenizer(text, add_special_tokens=not chat)["input_ids"]
        return torch.tensor([numbers or [min(self._ends, default=0)]])

    def _room(self, used: int, wanted: int) -> int:
        """How many tokens may follow. BLOOM has no limit of its own."""
        limit = getattr(self._model.config, "max_position_embeddings", None)
        if isinstance(limit, int) and used >= limit:
            raise BadRequest(f"The prompt has {used} tokens; this model takes {limit - 1}", field="prompt")
        return min(wanted, limit - used) if isinstance(limit, int) else wanted

    def _read_once(self, tokens: Tensor, count: int) -> tuple[Tensor, Any]:
        """As `_evaluate`, for `count` equal rows: what was read once is copied, where the cache can do that."""
        logits, past = self._evaluate(tokens, tokens.shape[1], None)
        if count == 1:
            return logits, past
        if not hasattr(past, "batch_repeat_interleave"):
            return self._evaluate(tokens.expand(count, -1), tokens.shape[1], None)
        past.batch_repeat_interleave(count)
        return logits.expand(count, -1), past

    def _evaluate(self, given: Tensor, length: int, past: Any) -> tuple[Tensor, Any]:
        """(logits of what comes next [B, V] float32 on the CPU, the cache), given the tokens since `past`."""
        place = self._device.plan.device
        more = {"logits_to_keep": 1} if "logits_to_keep" in self._parameters else {}
        mask = torch.ones((len(given), length), dtype=torch.long, device=place)
        with self._device.running(self._model):
            output = self._model(
                input_ids=given.to(place), attention_mask=mask, past_key_values=past, use_cache=True, **more
            )
            return output.logits[:, -1].float().cpu(), output.past_key_values

    def _read(self, row: Tensor, length: int) -> Continuation:
        text = self._tokenizer.decode(row[:length], skip_special_tokens=True)
        return Continuation(str(text), complete=length < len(row))


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*found, tokenizer.eos_token_id] if isinstance(token, int))


def _processors(sampling: Sampling) -> LogitsProcessorList:
    """In the order of `transformers.GenerationMixin`."""
    processors = LogitsProcessorList()
    if sampling.repetition_penalty not in (None, 1.0):
        processors.append(RepetitionPenaltyLogitsProcessor(penalty=float(sampling.repetition_penalty or 1.0)))
    if sampling.temperature not in (None, 0, 1.0):
        processors.append(TemperatureLogitsWarper(float(sampling.temperature or 1.0)))
    if sampling.top_k > 0:
        processors.append(TopKLogitsWarper(top_k=sampling.top_k))
    if sampling.top_p < 1.0:
        processors.append(TopPLogitsWarper(top_p=sampling.top_p))
    return processors


def _draw(scores: Tensor, dice: Sequence[torch.Generator], *, greedy: bool) -> Tensor:
    """[B, 1]: a token per row of `scores` [B, V], each by dice of its own."""
    if greedy:
        return scores.argmax(dim=-1, keepdim=True)
    shares = scores.softmax(dim=-1)
    return torch.stack([torch.multinomial(row, 1, generator=own) for row, own in zip(shares, dice, strict=True)])


def load_language_model(folder: Path, plan: DevicePlan, device: Device) -> LanguageModel:
    """From `folder` alone: no network, no code of the folder's, pickles of tensors only. Raises UnusableModel."""
    only = {"local_files_only": True, "trust_remote_code": False}
    prepare_torch()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **only)
        with torch.inference_mode(False):
            model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=plan.text_dtype, weights_only=True, **only)
            model = model.requires_grad_(False).eval().to(plan.storage)
    except Exception as error:  # the library fails in every way there is
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnusableModel(f"{folder.name} cannot be loaded: {reason}"[:500]) from error
    return LanguageModel(model, tokenizer, device)
