"""Prompts that gradients can flow back through, to the embeddings in them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from sdwebui_api.engine.text_output import TextOutput
from sdwebui_api.prompting.chunks import EmbeddingLookup, Tokenizer
from sdwebui_api.prompting.encoding import TextConditioner, TextSettings


class HeldTextEncoder(Protocol):
    """What is used of the model's text encoder besides what `TextConditioner` uses."""

    @property
    def key(self) -> str: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def holding(self) -> AbstractContextManager[None]: ...

    def encode(self, tokens: Tensor, fixes: list[list[tuple[int, Tensor]]], clip_skip: int) -> TextOutput:
        """As `forward`, while holding; differentiable in the fixes."""
        ...


class LearnablePrompts:
    """Encodes prompts as generation does, emphasis and long texts included. The encoder is held for one call at most.

    `backward` encodes again instead of keeping the first graph: with offloading the weights move in between.
    """

    def __init__(self, text_encoder: HeldTextEncoder, embeddings: EmbeddingLookup, settings: TextSettings) -> None:
        self._encoder = text_encoder
        self._conditioner = TextConditioner(_WhileHeld(text_encoder), embeddings)
        self._settings = settings

    def encode(self, texts: Sequence[str]) -> Tensor:
        """[B, 77n, D] float32, without autograd."""
        with self._encoder.holding():
            return self._encoded(texts)

    def backward(self, texts: Sequence[str], gradient: Tensor) -> None:
        """Adds to the gradients of the embeddings in `texts`, given that of what `encode` returned."""
        with self._encoder.holding(), torch.enable_grad():
            encoded = self._encoded(texts)
            if encoded.requires_grad:  # some text has the embedding in it
                encoded.backward(gradient.to(encoded))

    def _encoded(self, texts: Sequence[str]) -> Tensor:
        return torch.stack(self._conditioner.encode(texts, self._settings).tensors)


class _WhileHeld:
    """The text encoder for somebody who is holding it already."""

    def __init__(self, encoder: HeldTextEncoder) -> None:
        self._encoder = encoder
        self.key = encoder.key
        self.tokenizer = encoder.tokenizer

    def forward(self, tokens: Tensor, fixes: list[list[tuple[int, Tensor]]], clip_skip: int) -> TextOutput:
        return self._encoder.encode(tokens, fixes, clip_skip)
