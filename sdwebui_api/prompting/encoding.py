"""From texts to conditioning tensors: chunks, text encoder, emphasis, with a cache in front.

Follows A1111's `sd_hijack_clip.FrozenCLIPEmbedderWithCustomWordsBase.forward`.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sdwebui_api.prompting.chunks import (
    Embedding,
    EmbeddingLookup,
    NoEmbeddings,
    PromptChunk,
    Tokenizer,
    empty_chunk,
    tokenize_to_chunks,
)
from sdwebui_api.prompting.emphasis import apply_emphasis
from sdwebui_api.prompting.limits import check_chunks

MAX_ROWS = 32
"""Rows that the text encoder is given at once; more are encoded in turns."""


class TextEncoder(Protocol):
    """What is used of the model's text encoder."""

    @property
    def key(self) -> str:
        """Names the weights: encoders with equal keys give equal results."""
        ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def forward(self, tokens: Tensor, fixes: list[list[tuple[int, Tensor]]], clip_skip: int) -> Tensor:
        """Token ids [B, 77] -> float32 [B, 77, D]; each fix puts vectors [v, D] at its offset + 1 of the row."""
        ...


@dataclass(frozen=True)
class TextSettings:
    """The options that change what a prompt is encoded to."""

    clip_skip: int = 1
    """`CLIP_stop_at_last_layers`."""
    emphasis: str = "Original"
    comma_padding_backtrack: int = 20


@dataclass(frozen=True)
class TextReport:
    """What encoding came across that the infotext mentions."""

    embeddings: tuple[tuple[str, str | None], ...] = ()
    """(name, short hash) of the embeddings used, in A1111's order: the latest encoded text's first, repeats kept."""
    emphasis: str | None = None
    """The emphasis mode, when it is not "Original" and a text has brackets."""

    def after(self, earlier: TextReport) -> TextReport:
        """Both reports, `self` being the later one. A1111 encodes the negative prompts first."""
        return TextReport(self.embeddings + earlier.embeddings, self.emphasis or earlier.emphasis)

    @property
    def ti_hashes(self) -> str:
        """The value of infotext's `TI hashes`, "" when there is none."""
        named = [(name.replace(":", "").replace(",", ""), shorthash) for name, shorthash in self.embeddings]
        return ", ".join(f"{name}: {shorthash}" for name, shorthash in named if shorthash)

    def infotext(self, *, add_hashes: bool = True) -> dict[str, str]:
        """The fields for the infotext. `add_hashes`: option `textual_inversion_add_hashes_to_infotext`."""
        fields = {"TI hashes": self.ti_hashes if add_hashes else "", "Emphasis": self.emphasis or ""}
        return {name: value for name, value in fields.items() if value}


@dataclass(frozen=True)
class EncodedTexts:
    """`tensors[i]` [77 * n, D] float32 belongs to text i; n is the same for all texts of the call. Read-only."""

    tensors: tuple[Tensor, ...]
    report: TextReport


class EncodingCache:
    """What was encoded lately, by content, the least recently used dropped when it exceeds `max_bytes`. Thread-safe."""

    def __init__(self, max_bytes: int = 64 * 2**20) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def get(self, key: Hashable) -> Tensor | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                self.hits += 1
            else:
                self.misses += 1
            return self._entries.get(key)

    def put(self, key: Hashable, tensor: Tensor) -> None:
        with self._lock:
            if key in self._entries or tensor.nbytes > self.max_bytes:
                return
            self._entries[key] = tensor
            self._bytes += tensor.nbytes
            while self._bytes > self.max_bytes:
                self._bytes -= self._entries.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    @property
    def nbytes(self) -> int:
        return self._bytes


class TextConditioner:
    """Encodes texts with one text encoder. Thread-safe as far as the encoder is."""

    def __init__(
        self,
        text_encoder: TextEncoder,
        embeddings: EmbeddingLookup | None = None,
        cache: EncodingCache | None = None,
    ) -> None:
        self.text_encoder = text_encoder
        self.embeddings: EmbeddingLookup = embeddings or NoEmbeddings()
        self.cache = cache

    def encode(self, texts: Sequence[str], settings: TextSettings) -> EncodedTexts:
        """Encode `texts` (at least one) together: shorter ones are filled up with empty chunks, and the emphasis mode
        "Original" takes its mean over all of them. Raises BadRequest(field="prompt") for texts that cannot be read.
        """
        counts = Counter(texts)
        rows = self._chunk_rows(list(counts), settings)
        z = self._encode_rows(rows, list(counts.values()), settings)
        tensors = dict(zip(counts, z.unbind(0), strict=True))
        return EncodedTexts(tuple(tensors[text] for text in texts), _report(texts, rows, settings))

    def empty(self, settings: TextSettings) -> Tensor:
        """The empty prompt [1, 77, D], with which `pad_cond_uncond` fills up the shorter of two conditionings."""
        return self.encode([""], settings).tensors[0].unsqueeze(0)

    def _chunk_rows(self, texts: list[str], settings: TextSettings) -> list[list[PromptChunk]]:
        tokenizer = self.text_encoder.tokenizer
        rows = [
            tokenize_to_chunks(text, tokenizer, self.embeddings, settings.emphasis, settings.comma_padding_backtrack)[0]
            for text in texts
        ]
        length = max(len(row) for row in rows)
        check_chunks(len(rows) * length)
        return [row + [empty_chunk(tokenizer)] * (length - len(row)) for row in rows]

    def _encode_rows(self, rows: list[list[PromptChunk]], counts: list[int], settings: TextSettings) -> Tensor:
        if self.cache is None:
            return self._encode_columns(rows, counts, settings)
        key = (self.text_encoder.key, settings, tuple(counts), tuple(_row_key(row) for row in rows))
        found = self.cache.get(key)
        if found is None:
            found = self._encode_columns(rows, counts, settings)
            self.cache.put(key, found)
        return found

    def _encode_columns(self, rows: list[list[PromptChunk]], counts: list[int], settings: TextSettings) -> Tensor:
        columns = zip(*rows, strict=True)
        return torch.cat([self._encode_column(column, counts, settings) for column in columns], dim=1)

    def _encode_column(self, column: Sequence[PromptChunk], counts: list[int], settings: TextSettings) -> Tensor:
        """The i-th chunks of all texts -> [B, 77, D]."""
        z = torch.cat([self._forward(column[i : i + MAX_ROWS], settings) for i in range(0, len(column), MAX_ROWS)])
        multipliers = torch.tensor([chunk.multipliers for chunk in column], device=z.device)
        return apply_emphasis(z, multipliers, settings.emphasis, counts)

    def _forward(self, column: Sequence[PromptChunk], settings: TextSettings) -> Tensor:
        tokenizer = self.text_encoder.tokenizer
        tokens = torch.tensor([_padded(chunk.tokens, tokenizer) for chunk in column], dtype=torch.long)
        fixes = [[(fix.offset, fix.embedding.tensor) for fix in chunk.fixes] for chunk in column]
        return self.text_encoder.forward(tokens, fixes, settings.clip_skip)


def _padded(tokens: list[int], tokenizer: Tokenizer) -> list[int]:
    """SD2's encoder pads with another token than the one that ends a text; chunks are filled up with the latter."""
    if tokenizer.pad_id == tokenizer.eos_id:
        return tokens
    end = tokens.index(tokenizer.eos_id) + 1
    return tokens[:end] + [tokenizer.pad_id] * (len(tokens) - end)


def _row_key(row: list[PromptChunk]) -> Hashable:
    return tuple(
        (
            tuple(chunk.tokens),
            tuple(chunk.multipliers),
            tuple((fix.offset, _embedding_key(fix.embedding)) for fix in chunk.fixes),
        )
        for chunk in row
    )


def _embedding_key(embedding: Embedding) -> str:
    """Names the content; hashing of files may be turned off. Several may come in one file, under one hash."""
    if embedding.shorthash:
        return f"{embedding.name} {embedding.shorthash}"
    return hashlib.sha256(embedding.tensor.cpu().numpy().tobytes()).hexdigest()


def _report(texts: Sequence[str], rows: list[list[PromptChunk]], settings: TextSettings) -> TextReport:
    used: dict[str, str | None] = {}
    for column in zip(*rows, strict=True):
        for chunk in column:
            used |= {fix.embedding.name: fix.embedding.shorthash for fix in chunk.fixes}
    bracketed = any("(" in text or "[" in text for text in texts)
    emphasis = settings.emphasis if bracketed and settings.emphasis != "Original" else None
    return TextReport(tuple(used.items()), emphasis)
