"""Cutting a prompt into the 77-token rows that a CLIP text encoder takes.

Follows A1111's `sd_hijack_clip.FrozenCLIPEmbedderWithCustomWordsBase.tokenize_line`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sdwebui_api.errors import BadRequest
from sdwebui_api.prompting.attention import BREAK, ROUND_WEIGHT, parse_attention

CHUNK_LENGTH = 75
"""Tokens of a chunk between the start and the end token."""


class Tokenizer(Protocol):
    """What is used of the text encoder's tokenizer."""

    @property
    def bos_id(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def comma_id(self) -> int | None: ...

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """Every token and its id."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text`, without start and end tokens, of any length."""
        ...


class Embedding(Protocol):
    """A textual inversion embedding: `vectors` rows, in place of as many tokens."""

    @property
    def name(self) -> str: ...

    @property
    def shorthash(self) -> str | None: ...

    @property
    def vectors(self) -> int: ...

    @property
    def tensor(self) -> Any:
        """Tensor [vectors, D]."""
        ...


class EmbeddingLookup(Protocol):
    def find_at(self, tokens: Sequence[int], offset: int) -> tuple[Embedding | None, int]:
        """The embedding whose name the tokens at `offset` spell, the longest one, and how many tokens that is."""
        ...


class NoEmbeddings:
    """The lookup of a model without embeddings."""

    def find_at(self, tokens: Sequence[int], offset: int) -> tuple[Embedding | None, int]:
        return None, 0


@dataclass(frozen=True)
class PromptFix:
    """`embedding` takes the place of the chunk's tokens from `offset` on, not counting the start token."""

    offset: int
    embedding: Embedding


@dataclass
class PromptChunk:
    """One row for the text encoder: 77 token ids with the weight of each, and the embeddings to put in."""

    tokens: list[int] = field(default_factory=list)
    multipliers: list[float] = field(default_factory=list)
    fixes: list[PromptFix] = field(default_factory=list)


def tokenize_to_chunks(
    text: str,
    tokenizer: Tokenizer,
    embeddings: EmbeddingLookup | None = None,
    emphasis: str = "Original",
    comma_padding_backtrack: int = 20,
) -> tuple[list[PromptChunk], int]:
    """`text` as chunks, at least one, and its length in tokens (the padding of all but the last chunk included).

    `emphasis` "None" takes brackets and BREAK literally. With `comma_padding_backtrack` > 0, what follows a comma at
    most that many tokens before the end of a full chunk moves on to the next one. Raises BadRequest(field="prompt").
    """
    builder = _ChunkBuilder(tokenizer, embeddings or NoEmbeddings(), comma_padding_backtrack)
    fragments = [(text, 1.0)] if emphasis == "None" else parse_attention(text)
    for fragment in fragments:
        if fragment == BREAK:
            builder.close()
        else:
            builder.add(tokenizer.tokenize(fragment[0]), fragment[1])
    return builder.finish()


def old_chunk(
    text: str, tokenizer: Tokenizer, embeddings: EmbeddingLookup | None = None, emphasis: str = "Original"
) -> PromptChunk:
    """`text` in one chunk, as A1111's first versions had it (option `use_old_emphasis_implementation`).

    Every token with brackets is left out and weighs all that follow it: `(` 1.1, `[` 1 / 1.1, closing ones the other
    way round; weights as numbers, escapes and BREAK are plain words. What does not fit is cut off.
    """
    chunk, weight, tokens = PromptChunk(), 1.0, tokenizer.tokenize(text)
    weights = {} if emphasis == "None" else _bracket_weights(tokenizer)
    lookup = embeddings or NoEmbeddings()
    position = 0
    while position < len(tokens):
        embedding, length = lookup.find_at(tokens, position)
        if tokens[position] in weights:
            weight *= weights[tokens[position]]
            position += 1
        elif embedding is None:
            chunk.tokens.append(tokens[position])
            chunk.multipliers.append(weight)
            position += 1
        else:
            chunk.fixes.append(PromptFix(len(chunk.tokens), embedding))
            chunk.tokens += [0] * embedding.vectors
            chunk.multipliers += [weight] * embedding.vectors
            position += length
    used = min(len(chunk.tokens), CHUNK_LENGTH)
    padding = CHUNK_LENGTH - used
    tokens = [tokenizer.bos_id, *chunk.tokens[:used], *[tokenizer.eos_id] * (padding + 1)]
    multipliers = [1.0, *chunk.multipliers[:used], *[1.0] * (padding + 1)]
    return PromptChunk(tokens, multipliers, [fix for fix in chunk.fixes if fix.offset < CHUNK_LENGTH])


def _bracket_weights(tokenizer: Tokenizer) -> dict[int, float]:
    """What each token with brackets multiplies by; those that come to 1, like `()`, are plain words."""
    weights: dict[int, float] = {}
    for token, number in tokenizer.vocabulary.items():
        weight = 1.0
        for character in token:
            if character in "(]":
                weight *= ROUND_WEIGHT
            elif character in "[)":
                weight /= ROUND_WEIGHT
        if weight != 1.0:
            weights[number] = weight
    return weights


def empty_chunk(tokenizer: Tokenizer) -> PromptChunk:
    """The chunk of a prompt without words, which also fills up the shorter texts of a batch."""
    tokens = [tokenizer.bos_id] + [tokenizer.eos_id] * (CHUNK_LENGTH + 1)
    return PromptChunk(tokens, [1.0] * len(tokens))


class _ChunkBuilder:
    def __init__(self, tokenizer: Tokenizer, embeddings: EmbeddingLookup, backtrack: int) -> None:
        self.tokenizer = tokenizer
        self.embeddings = embeddings
        self.backtrack = backtrack
        self.chunks: list[PromptChunk] = []
        self.chunk = PromptChunk()
        self.last_comma: int | None = None
        self.token_count = 0

    def add(self, tokens: list[int], weight: float) -> None:
        position = 0
        while position < len(tokens):
            self._make_room(tokens[position])
            embedding, length = self.embeddings.find_at(tokens, position)
            if embedding is None:
                self.chunk.tokens.append(tokens[position])
                self.chunk.multipliers.append(weight)
                position += 1
            else:
                self._add_embedding(embedding, weight)
                position += length

    def _make_room(self, token: int) -> None:
        """Start a new chunk before `token` when the current one is full, if possible after its last comma."""
        length = len(self.chunk.tokens)
        if token == self.tokenizer.comma_id:
            self.last_comma = length
        elif (
            length == CHUNK_LENGTH
            and self.backtrack != 0
            and self.last_comma is not None
            and length - self.last_comma <= self.backtrack
        ):
            self._close_after(self.last_comma)
        if len(self.chunk.tokens) == CHUNK_LENGTH:
            self.close()

    def _close_after(self, comma: int) -> None:
        # Embeddings behind the comma are not moved along, only the zeros that keep their places: A1111 does the same.
        chunk, kept = self.chunk, comma + 1
        moved = PromptChunk(chunk.tokens[kept:], chunk.multipliers[kept:])
        del chunk.tokens[kept:], chunk.multipliers[kept:]
        self.close()
        self.chunk = moved

    def _add_embedding(self, embedding: Embedding, weight: float) -> None:
        vectors = embedding.vectors
        if vectors > CHUNK_LENGTH:
            message = f"The embedding {embedding.name} has {vectors} vectors; only {CHUNK_LENGTH} fit in a prompt chunk"
            raise BadRequest(message, field="prompt")
        if len(self.chunk.tokens) + vectors > CHUNK_LENGTH:
            self.close()
        self.chunk.fixes.append(PromptFix(len(self.chunk.tokens), embedding))
        self.chunk.tokens += [0] * vectors
        self.chunk.multipliers += [weight] * vectors

    def close(self) -> None:
        """End the current chunk, padded to its full length, and begin an empty one."""
        self.token_count += CHUNK_LENGTH
        chunk = self.chunk
        padding = CHUNK_LENGTH - len(chunk.tokens)
        eos = self.tokenizer.eos_id
        chunk.tokens = [self.tokenizer.bos_id, *chunk.tokens, *[eos] * padding, eos]
        chunk.multipliers = [1.0, *chunk.multipliers, *[1.0] * padding, 1.0]
        self.chunks.append(chunk)
        self.chunk = PromptChunk()
        self.last_comma = None

    def finish(self) -> tuple[list[PromptChunk], int]:
        if self.chunk.tokens or not self.chunks:
            used = len(self.chunk.tokens)
            self.close()
            self.token_count += used - CHUNK_LENGTH
        return self.chunks, self.token_count
