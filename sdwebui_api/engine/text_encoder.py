"""CLIP text encoders with A1111's clip skip and textual inversion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from ftfy import fix_text
from torch import LongTensor, Tensor

from sdwebui_api.engine.devices import Device
from sdwebui_api.engine.families.base import TextTower
from sdwebui_api.engine.libraries import IMPORTING
from sdwebui_api.engine.text_output import TextOutput

DATA = Path(__file__).parent / "data"

Fixes = Sequence[Sequence[tuple[int, Tensor]]]
"""Per row of tokens: (offset, vectors [v, D]); the vectors replace the token embeddings from position offset+1 on."""


class Tokenizer:
    """OpenAI's CLIP vocabulary, shipped with the package. Safe to use from several threads."""

    def __init__(self, folder: Path = DATA) -> None:
        with IMPORTING:
            from transformers import CLIPTokenizer
        clip = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        # The Rust object itself: encoding does not change it, whereas the wrapper sets truncation on every call.
        self._encoder = clip.backend_tokenizer
        self.bos_id: int = clip.bos_token_id
        self.eos_id: int = clip.eos_token_id
        self.vocabulary: dict[str, int] = clip.get_vocab()
        self.comma_id: int | None = self.vocabulary.get(",</w>")

    def tokenize(self, text: str) -> list[int]:
        """Token ids without start and end marks, not truncated.

        As CLIP's own tokenizer does, ftfy (Speer) first makes typographic quotes, ligatures, full-width characters
        and HTML entities the plain characters that the model was trained on, and mends what was decoded wrongly.
        """
        return self._encoder.encode(fix_text(text).lower(), add_special_tokens=False).ids


class TextModels(Protocol):
    """Where the text models are while they have work."""

    @property
    def width(self) -> int:
        """Of all models' states side by side."""
        ...

    def module(self) -> AbstractContextManager[Any]:
        """A transformers CLIPTextModel, or a module that has those that the towers name, while the context lasts."""
        ...

    def let_go(self) -> None:
        """They will not be needed for a while."""
        ...


class TextEncoder:
    """The text models of one checkpoint. Thread-safe: the device serves one forward at a time."""

    def __init__(
        self,
        key: str,
        models: TextModels,
        tokenizer: Tokenizer,
        device: Device,
        towers: Sequence[TextTower] = (TextTower(),),
    ) -> None:
        self.key = key
        self.tokenizer = tokenizer
        self.width = models.width
        """Of the context, and of an embedding's vectors: those of all text models side by side."""
        self._lent = models
        self._device = device
        self._towers = towers
        self._models: list[tuple[TextTower, Any]] = []
        """While they are held."""

    def forward(self, tokens: LongTensor | Tensor, fixes: Fixes, clip_skip: int = 1) -> TextOutput:
        """What the text models make of `tokens` [B, 77], on the engine's device.

        `clip_skip` 1 takes the last layer, 2 the one before it, …, where the family leaves the choice; the final
        layer norm is applied in every case there (A1111 sd_hijack_clip.py, `encode_with_transformers`).
        """
        with self.holding():
            return self.encode(tokens, fixes, clip_skip)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Hold the models and the device, for several calls of `encode`."""
        with self._lent.module() as module, self._device.running(module):
            self._models = [(tower, text_model(module, tower)) for tower in self._towers]
            try:
                yield
            finally:
                self._models = []

    def let_go(self) -> None:
        """Nothing is to be encoded for a while: where memory is short, the models leave it."""
        self._lent.let_go()

    def encode(self, tokens: LongTensor | Tensor, fixes: Fixes, clip_skip: int) -> TextOutput:
        """`forward`, to be called while holding the device; with autograd on, differentiable in the fixes."""
        tokens = tokens.to(self._device.plan.device)
        states: list[Tensor] = []
        pooled: Tensor | None = None
        start = 0
        for tower, model in self._models:
            width = model.config.hidden_size
            part = [[(offset, vectors[:, start : start + width]) for offset, vectors in row] for row in fixes]
            start += width
            own = tokens if tower.pad_id is None else _padded(tokens, self.tokenizer.eos_id, tower.pad_id)
            state, last = _run(model, own, part, tower, clip_skip)
            states.append(state.float())
            if tower.pooled:
                ends = (own == self.tokenizer.eos_id).int().argmax(dim=1)
                pooled = model.text_projection(last[torch.arange(len(last), device=last.device), ends]).float()
        return TextOutput(tuple(states), pooled)

    def token_vectors(self, tokens: Sequence[int]) -> Tensor:
        """The vocabulary's own vectors [len(tokens), D], float32 on the CPU."""
        with self.holding():
            ids = torch.tensor(tokens, device=self._device.plan.device)
            return torch.cat([_inner(m).embeddings.token_embedding(ids).float().cpu() for _, m in self._models], dim=-1)


def text_model(module: Any, tower: TextTower) -> Any:
    """The text model that `tower` is about."""
    return module.get_submodule(tower.name) if tower.name else module


def _inner(model: Any) -> Any:
    """Where embeddings and layers are: a text model with a projection keeps them one level below."""
    return model.text_model if hasattr(model, "text_projection") else model


def _run(model: Any, tokens: Tensor, fixes: Fixes, tower: TextTower, clip_skip: int) -> tuple[Tensor, Tensor]:
    """(the state that counts [B, T, D], what all layers and the final norm make of the row [B, T, D]).

    The second is the first where nobody asks for it.
    """
    inner = _inner(model)
    hidden = _embed(inner.embeddings, tokens, fixes)
    mask = _causal_mask(hidden)
    layers = inner.encoder.layers
    used = max(len(layers) - max(tower.layer or clip_skip, 1) + 1, 0)
    for layer in layers[:used]:
        hidden = layer(hidden, attention_mask=mask)
    state = last = inner.final_layer_norm(hidden) if tower.final_norm else hidden
    if tower.pooled:
        for layer in layers[used:]:
            hidden = layer(hidden, attention_mask=mask)
        last = inner.final_layer_norm(hidden)
    return state, last


def _embed(embeddings: Any, tokens: Tensor, fixes: Fixes) -> Tensor:
    words = embeddings.token_embedding(tokens)
    for row, row_fixes in enumerate(fixes):
        for offset, vectors in row_fixes:
            count = min(words.shape[1] - offset - 1, vectors.shape[0])
            words[row, offset + 1 : offset + 1 + count] = vectors[:count].to(words)
    return words + embeddings.position_embedding(embeddings.position_ids[:, : tokens.shape[1]])


def _padded(tokens: Tensor, eos_id: int, pad_id: int) -> Tensor:
    """`tokens` [B, T] with `pad_id` behind each row's first end token."""
    ended = (tokens == eos_id).int().cumsum(dim=1)
    behind = (ended > 1) | ((ended == 1) & (tokens != eos_id))
    return tokens.masked_fill(behind, pad_id)


def _causal_mask(hidden: Tensor) -> Tensor:
    """[1, 1, T, T], to be added to the attention scores: no token sees a later one."""
    length = hidden.shape[1]
    full = torch.full((length, length), torch.finfo(hidden.dtype).min, dtype=hidden.dtype, device=hidden.device)
    return full.triu(1)[None, None]
