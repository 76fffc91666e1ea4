"""The tokenizer, and the compact vocabulary that training uses.

Captions use about 2,000 of CLIP's 49,408 tokens. Training keeps one row per used token and one row UNKNOWN for all
others; at export every unused token gets the UNKNOWN row, so that words the model never saw are near no-ops.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from training.captions import NEGATIVES, caption
from training.glyphs import Glyph
from training.models import TOKENS
from training.scenes import WIDE_MIX, Composer

_PACKAGE_DATA = Path(__file__).parent.parent / "sdwebui_api" / "engine" / "data"
CLIP_TOKENS = 49408
BEGIN, END = 49406, 49407


def load_tokenizer(folder: Path | None = None) -> Any:
    """CLIP's tokenizer from `folder`, or the one that ships inside sdwebui_api."""
    from transformers import CLIPTokenizer

    found = folder or next((path.parent for path in sorted(_PACKAGE_DATA.rglob("vocab.json"))), None)
    if found is None or not (found / "vocab.json").is_file():
        raise FileNotFoundError(f"no vocab.json under {found or _PACKAGE_DATA}: pass --tokenizer FOLDER")
    return CLIPTokenizer.from_pretrained(str(found))


class Vocabulary:
    """Maps CLIP's token ids to rows 0..len(tokens), the last being UNKNOWN."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = sorted({BEGIN, END, *tokens})
        self.unknown = len(self.tokens)
        self.rows = self.unknown + 1
        self._row_of = torch.full((CLIP_TOKENS,), self.unknown)
        self._row_of[torch.tensor(self.tokens)] = torch.arange(self.unknown)
        self.end = int(self._row_of[END])

    @classmethod
    def of(cls, glyphs: Sequence[Glyph], tokenizer: Any, sampled_captions: int = 4000) -> Vocabulary:
        """All nouns of `glyphs`, and the words around them as they turn up in sampled captions."""
        nouns = [noun for g in glyphs for noun in (g.emoji.name, *g.emoji.aliases, *g.emoji.keywords)]
        random, composer = Random(0), Composer(glyphs, WIDE_MIX)
        captions = [caption(composer.scene(random), random) for _ in range(sampled_captions)]
        rows = tokenizer([*nouns, *NEGATIVES, *captions]).input_ids
        return cls([token for row in rows for token in row])

    def compact(self, token_ids: Tensor) -> Tensor:
        return self._row_of[token_ids]

    def encode(self, texts: Iterable[str], tokenizer: Any) -> Tensor:
        """Compact ids [B, 77], padded with END as SD1's text encoder expects."""
        return self.compact(token_ids(texts, tokenizer))

    def with_unknown_words(self, row: Tensor, random: Random) -> Tensor:
        """`row` [77] with a few UNKNOWN tokens before or after its words: what an unheard-of word looks like."""
        ids = row.tolist()
        length = ids.index(self.end)
        at = random.choice([1, length])
        ids[at:at] = [self.unknown] * random.choice([1, 1, 2, 3, 4, 6, 10])
        return torch.tensor([*ids[: TOKENS - 1], self.end])

    def expand(self, table: Tensor) -> Tensor:
        """The compact token table [rows, width] as CLIP's [49408, width]."""
        return table[self._row_of.to(table.device)]

    def gather(self, full_table: Tensor) -> Tensor:
        """The inverse of `expand`: the rows of a [49408, width] table that training needs."""
        unused = next(i for i in range(CLIP_TOKENS) if int(self._row_of[i]) == self.unknown)
        return full_table[torch.tensor([*self.tokens, unused])]


def token_ids(texts: Iterable[str], tokenizer: Any) -> Tensor:
    """CLIP token ids, int64 [B, 77], padded with END."""
    batch = tokenizer(list(texts), padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    return batch.input_ids
