from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from training.glyphs import Glyph
from training.vocabulary import END, Vocabulary, load_tokenizer, token_ids


@pytest.fixture(scope="module")
def vocabulary(glyphs: list[Glyph], tokenizer: Any) -> Vocabulary:
    return Vocabulary.of(glyphs, tokenizer, sampled_captions=200)


def test_known_words_have_rows_of_their_own_and_unknown_ones_share_the_last(
    vocabulary: Vocabulary, tokenizer: Any
) -> None:
    known, unknown = vocabulary.encode(["a red apple, thing", "zyzzyva"], tokenizer)
    assert vocabulary.unknown not in known and vocabulary.unknown in unknown
    assert int(known[-1]) == int(unknown[-1]) == vocabulary.end == vocabulary.tokens.index(END)


def test_expanding_the_table_keeps_every_embedding(vocabulary: Vocabulary, tokenizer: Any) -> None:
    table = torch.randn(vocabulary.rows, 8)
    full = vocabulary.expand(table)
    ids = token_ids(["a red apple on a blue background", "zyzzyva"], tokenizer)
    assert full.shape == (49408, 8)
    assert torch.equal(full[ids], table[vocabulary.compact(ids)])
    assert torch.equal(vocabulary.gather(full), table)


def test_unknown_words_go_beside_the_known_ones(vocabulary: Vocabulary, tokenizer: Any) -> None:
    row = vocabulary.encode(["a red apple"], tokenizer)[0]
    for seed in range(20):
        mixed = vocabulary.with_unknown_words(row, Random(seed))
        assert mixed.shape == row.shape and int(mixed[0]) == int(row[0]) and int(mixed[-1]) == vocabulary.end
        kept = [int(i) for i in mixed if int(i) != vocabulary.unknown]
        assert kept[:5] == [int(i) for i in row[:5]] and len(kept) < len(row)


def test_a_missing_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--tokenizer"):
        load_tokenizer(tmp_path)


def test_the_servers_own_vocabulary_is_found(tokenizer: Any) -> None:
    assert load_tokenizer()("a red apple").input_ids == tokenizer("a red apple").input_ids
