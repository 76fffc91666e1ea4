"""A text encoder without weights: each word is a token, and what goes in can be read from what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdwebui_api.engine.text_output import TextOutput

BOS, EOS, COMMA = 1, 2, 3


@dataclass
class WordTokenizer:
    """Words and commas, numbered from 10 in the order of their first use."""

    bos_id: int = BOS
    eos_id: int = EOS
    comma_id: int | None = COMMA
    vocabulary: dict[str, int] = field(default_factory=dict)

    def tokenize(self, text: str) -> list[int]:
        words = text.replace(",", " , ").split()
        return [COMMA if word == "," else self.vocabulary.setdefault(word, 10 + len(self.vocabulary)) for word in words]


@dataclass(frozen=True)
class FakeEmbedding:
    name: str
    tensor: Tensor
    shorthash: str | None = "0123456789ab"

    @property
    def vectors(self) -> int:
        return self.tensor.shape[0]


class FakeEmbeddings:
    def __init__(self, tokenizer: WordTokenizer, *embeddings: FakeEmbedding) -> None:
        self.known = [(tokenizer.tokenize(embedding.name), embedding) for embedding in embeddings]

    def find_at(self, tokens: Sequence[int], offset: int) -> tuple[FakeEmbedding | None, int]:
        for ids, embedding in self.known:
            if list(tokens[offset : offset + len(ids)]) == ids:
                return embedding, len(ids)
        return None, 0


@dataclass
class FakeTextEncoder:
    """Each token's vector is (id, id / 2, 1 + clip skip); the vectors of embeddings appear as they are."""

    tokenizer: WordTokenizer = field(default_factory=WordTokenizer)
    key: str = "fake"
    calls: list[Tensor] = field(default_factory=list)

    def forward(self, tokens: Tensor, fixes: list[list[tuple[int, Tensor]]], clip_skip: int) -> TextOutput:
        self.calls.append(tokens)
        ids = tokens.float()
        z = torch.stack([ids, ids / 2, torch.full_like(ids, 1.0 + clip_skip)], dim=-1)
        for row, row_fixes in enumerate(fixes):
            for offset, vectors in row_fixes:
                count = min(77 - offset - 1, len(vectors))
                z[row, offset + 1 : offset + 1 + count] = vectors[:count]
        return TextOutput((z,))
