"""The CLIP text encoder with A1111's clip skip and textual inversion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import LongTensor, Tensor
from transformers import CLIPTokenizer

from sdwebui_api.engine.devices import Device

DATA = Path(__file__).parent / "data"

Fixes = Sequence[Sequence[tuple[int, Tensor]]]
"""Per row of tokens: (offset, vectors [v, D]); the vectors replace the token embeddings from position offset+1 on."""


class Tokenizer:
    """OpenAI's CLIP vocabulary, shipped with the package. Safe to use from several threads."""

    def __init__(self, folder: Path = DATA) -> None:
        clip = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        # The Rust object itself: encoding does not change it, whereas the wrapper sets truncation on every call.
        self._encoder = clip.backend_tokenizer
        self.bos_id: int = clip.bos_token_id
        self.eos_id: int = clip.eos_token_id
        self.pad_id: int = clip.pad_token_id
        self.vocabulary: dict[str, int] = clip.get_vocab()
        self.comma_id: int | None = self.vocabulary.get(",</w>")

    def tokenize(self, text: str) -> list[int]:
        """Token ids without start and end marks, not truncated."""
        return self._encoder.encode(text, add_special_tokens=False).ids


class TextEncoder:
    """One loaded text encoder. Thread-safe: the device serves one forward at a time."""

    def __init__(self, key: str, module: Any, tokenizer: Tokenizer, device: Device) -> None:
        self.key = key
        self.tokenizer = tokenizer
        self._module: Any = module
        self._device = device
        self.width: int = module.config.hidden_size
        self.layers: int = module.config.num_hidden_layers

    def forward(self, tokens: LongTensor | Tensor, fixes: Fixes, clip_skip: int = 1) -> Tensor:
        """Hidden states [B, 77, D], float32 on the engine's device, of `tokens` [B, 77].

        `clip_skip` 1 takes the last layer, 2 the one before it, …; the final layer norm is applied in every case
        (A1111 sd_hijack_clip.py, `encode_with_transformers`).
        """
        with self.holding():
            return self.encode(tokens, fixes, clip_skip)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Hold the device, for several calls of `encode`."""
        with self._device.running(self._module):
            yield

    def encode(self, tokens: LongTensor | Tensor, fixes: Fixes, clip_skip: int) -> Tensor:
        """`forward`, to be called while holding the device; with autograd on, differentiable in the fixes."""
        hidden = self._embed(tokens.to(self._device.plan.device), fixes)
        mask = _causal_mask(hidden)
        used = max(self.layers - max(clip_skip, 1) + 1, 0)
        for layer in self._module.encoder.layers[:used]:
            hidden = layer(hidden, attention_mask=mask)
        return self._module.final_layer_norm(hidden).float()

    def token_vectors(self, tokens: Sequence[int]) -> Tensor:
        """The vocabulary's own vectors [len(tokens), D], float32 on the CPU."""
        with self.holding():
            ids = torch.tensor(tokens, device=self._device.plan.device)
            return self._module.embeddings.token_embedding(ids).float().cpu()

    def _embed(self, tokens: Tensor, fixes: Fixes) -> Tensor:
        embeddings = self._module.embeddings
        words = embeddings.token_embedding(tokens)
        for row, row_fixes in enumerate(fixes):
            for offset, vectors in row_fixes:
                count = min(words.shape[1] - offset - 1, vectors.shape[0])
                words[row, offset + 1 : offset + 1 + count] = vectors[:count].to(words)
        return words + embeddings.position_embedding(embeddings.position_ids[:, : tokens.shape[1]])


def _causal_mask(hidden: Tensor) -> Tensor:
    """[1, 1, T, T], to be added to the attention scores: no token sees a later one."""
    length = hidden.shape[1]
    full = torch.full((length, length), torch.finfo(hidden.dtype).min, dtype=hidden.dtype, device=hidden.device)
    return full.triu(1)[None, None]
