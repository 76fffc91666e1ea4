"""From texts to conditioning tensors: chunks, text encoder, emphasis, with a cache in front.

Follows A1111's `sd_hijack_clip.FrozenCLIPEmbedderWithCustomWordsBase.forward`.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sdwebui_api.engine.text_output import TextOutput
from sdwebui_api.prompting.chunks import (
    Embedding,
    EmbeddingLookup,
    NoEmbeddings,
    PromptChunk,
    Tokenizer,
    empty_chunk,
    old_chunk,
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

    def forward(self, tokens: Tensor, fixes: list[list[tuple[int, Tensor]]], clip_skip: int) -> TextOutput:
        """Of token ids [B, 77]; each fix puts vectors [v, D] at its offset + 1 of the row."""
        ...


@dataclass(frozen=True)
class TextSettings:
    """The options that change what a prompt is encoded to."""

    clip_skip: int = 1
    """`CLIP_stop_at_last_layers`."""
    emphasis: str = "Original"
    comma_padding_backtrack: int = 20
    old_emphasis: bool = False
    """`use_old_emphasis_implementation`."""

    @classmethod
    def of(cls, options: Mapping[str, Any], own_clip_skip: int | None = None) -> TextSettings:
        """From the server's options. `own_clip_skip`: of a family that has its own, which counts unless the option
        `sdxl_clip_l_skip` is on."""
        clip_skip = int(options["CLIP_stop_at_last_layers"])
        if own_clip_skip is not None and not options["sdxl_clip_l_skip"]:
            clip_skip = own_clip_skip
        backtrack, old = int(options["comma_padding_backtrack"]), bool(options["use_old_emphasis_implementation"])
        return cls(clip_skip, options["emphasis"], backtrack, old)


@dataclass(frozen=True)
class TextReport:
    """What encoding came across that the infotext mentions."""

    embeddings: tuple[tuple[str, str | None], ...] = ()
    """(name, short hash) of the embeddings used, in A1111's order: the latest encoded text's first, repeats kept."""
    emphasis: str | None = None
    """The emphasis mode, when it is not "Original" and a text has brackets."""
    emphasis_first: bool = False
    """It was come across before any embedding: an infotext keeps that order."""

    def after(self, earlier: TextReport) -> TextReport:
        """Both reports, `self` being the later one. A1111 encodes the negative prompts first."""
        first = earlier.emphasis_first or (earlier.emphasis is not None and not earlier.ti_hashes)
        if not earlier.infotext():
            first = self.emphasis_first
        return TextReport(self.embeddings + earlier.embeddings, self.emphasis or earlier.emphasis, first)

    @property
    def ti_hashes(self) -> str:
        """The value of infotext's `TI hashes`, "" when there is none."""
        named = [(name.replace(":", "").replace(",", ""), shorthash) for name, shorthash in self.embeddings]
        return ", ".join(f"{name}: {shorthash}" for name, shorthash in named if shorthash)

    def infotext(self, *, add_hashes: bool = True) -> dict[str, str]:
        """The fields for the infotext. `add_hashes`: option `textual_inversion_add_hashes_to_infotext`."""
        fields = [("TI hashes", self.ti_hashes if add_hashes else ""), ("Emphasis", self.emphasis or "")]
        return {name: value for name, value in (fields[::-1] if self.emphasis_first else fields) if value}


@dataclass(frozen=True)
class EncodedTexts:
    """`tensors[i]` [77 * n, D] float32 belongs to text i; n is the same for all texts of the call. Read-only."""

    tensors: tuple[Tensor, ...]
    report: TextReport
    pooled: tuple[Tensor, ...] | None = None
    """[P] float32 of each text's first chunk, as in A1111, where the encoder gives it."""


@dataclass(frozen=True)
class _Rows:
    """The encodings of the distinct texts of one call: z [B, 77 * n, D], pooled [B, P]."""

    z: Tensor
    pooled: Tensor | None

    @property
    def nbytes(self) -> int:
        return self.z.nbytes + (0 if self.pooled is None else self.pooled.nbytes)


class EncodingCache:
    """What was encoded lately, by content, the least recently used dropped when it exceeds `max_bytes`. Thread-safe."""

    def __init__(self, max_bytes: int = 64 * 2**20) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, _Rows] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def get(self, key: Hashable) -> _Rows | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                self.hits += 1
            else:
                self.misses += 1
            return self._entries.get(key)

    def put(self, key: Hashable, rows: _Rows) -> None:
        with self._lock:
            if key in self._entries or rows.nbytes > self.max_bytes:
                return
            self._entries[key] = rows
            self._bytes += rows.nbytes
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
        encoded = self._encode_rows(rows, list(counts.values()), settings)
        tensors = dict(zip(counts, encoded.z.unbind(0), strict=True))
        pooled = None
        if encoded.pooled is not None:
            vectors = dict(zip(counts, encoded.pooled.unbind(0), strict=True))
            pooled = tuple(vectors[text] for text in texts)
        return EncodedTexts(tuple(tensors[text] for text in texts), _report(texts, rows, settings), pooled)

    def empty(self, settings: TextSettings) -> Tensor:
        """The empty prompt [1, 77, D], with which `pad_cond_uncond` fills up the shorter of two conditionings."""
        return self.encode([""], settings).tensors[0].unsqueeze(0)

    def _chunk_rows(self, texts: list[str], settings: TextSettings) -> list[list[PromptChunk]]:
        tokenizer = self.text_encoder.tokenizer
        if settings.old_emphasis:
            return [[old_chunk(text, tokenizer, self.embeddings, settings.emphasis)] for text in texts]
        rows = [
            tokenize_to_chunks(text, tokenizer, self.embeddings, settings.emphasis, settings.comma_padding_backtrack)[0]
            for text in texts
        ]
        length = max(len(row) for row in rows)
        check_chunks(len(rows) * length)
        return [row + [empty_chunk(tokenizer)] * (length - len(row)) for row in rows]

    def _encode_rows(self, rows: list[list[PromptChunk]], counts: list[int], settings: TextSettings) -> _Rows:
        if self.cache is None:
            return self._encode_columns(rows, counts, settings)
        key = (self.text_encoder.key, settings, tuple(counts), tuple(_row_key(row) for row in rows))
        found = self.cache.get(key)
        if found is None:
            found = self._encode_columns(rows, counts, settings)
            self.cache.put(key, found)
        return found

    def _encode_columns(self, rows: list[list[PromptChunk]], counts: list[int], settings: TextSettings) -> _Rows:
        columns = [self._encode_column(column, counts, settings) for column in zip(*rows, strict=True)]
        return _Rows(torch.cat([column.context for column in columns], dim=1), columns[0].pooled)

    def _encode_column(self, column: Sequence[PromptChunk], counts: list[int], settings: TextSettings) -> TextOutput:
        """The i-th chunks of all texts. Weights of words change each text model's states for themselves, and leave
        the pooled vector alone, as in A1111."""
        found = [self._forward(column[i : i + MAX_ROWS], settings) for i in range(0, len(column), MAX_ROWS)]
        states = [torch.cat(parts) for parts in zip(*(one.states for one in found), strict=True)]
        multipliers = torch.tensor([chunk.multipliers for chunk in column], device=states[0].device)
        pooled = [one.pooled for one in found if one.pooled is not None]
        return TextOutput(
            tuple(apply_emphasis(z, multipliers, settings.emphasis, counts) for z in states),
            torch.cat(pooled) if pooled else None,
        )

    def _forward(self, column: Sequence[PromptChunk], settings: TextSettings) -> TextOutput:
        tokens = torch.tensor([chunk.tokens for chunk in column], dtype=torch.long)
        fixes = [[(fix.offset, fix.embedding.tensor) for fix in chunk.fixes] for chunk in column]
        return self.text_encoder.forward(tokens, fixes, settings.clip_skip)


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
    if settings.old_emphasis:  # which says nothing of either
        return TextReport()
    used: dict[str, str | None] = {}
    for column in zip(*rows, strict=True):
        for chunk in column:
            used |= {fix.embedding.name: fix.embedding.shorthash for fix in chunk.fixes}
    bracketed = any("(" in text or "[" in text for text in texts)
    emphasis = settings.emphasis if bracketed and settings.emphasis != "Original" else None
    return TextReport(tuple(used.items()), emphasis)
