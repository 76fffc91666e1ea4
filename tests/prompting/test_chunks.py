from __future__ import annotations

import pytest
import torch

from sdwebui_api.errors import BadRequest
from sdwebui_api.prompting.chunks import PromptChunk, empty_chunk, old_chunk, tokenize_to_chunks
from tests.prompting.fakes import BOS, COMMA, EOS, FakeEmbedding, FakeEmbeddings, WordTokenizer


def words(count: int, start: int = 0) -> str:
    return " ".join(f"w{i}" for i in range(start, start + count))


def content(chunk: PromptChunk) -> list[int]:
    """The tokens before the padding."""
    assert len(chunk.tokens) == len(chunk.multipliers) == 77
    assert (chunk.tokens[0], chunk.tokens[-1]) == (BOS, EOS)
    return [token for token in chunk.tokens[1:-1] if token != EOS]


def test_a_short_prompt_is_one_padded_chunk() -> None:
    chunks, count = tokenize_to_chunks("a (b:1.5) c", WordTokenizer())
    assert count == 3
    assert chunks == [PromptChunk([BOS, 10, 11, 12] + [EOS] * 73, [1.0, 1.0, 1.5] + [1.0] * 74)]


def test_the_empty_prompt_is_the_empty_chunk() -> None:
    tokenizer = WordTokenizer()
    assert tokenize_to_chunks("", tokenizer) == ([empty_chunk(tokenizer)], 0)


@pytest.mark.parametrize(("length", "chunks"), [(75, 1), (76, 2), (150, 2), (151, 3)])
def test_chunk_count(length: int, chunks: int) -> None:
    result, count = tokenize_to_chunks(words(length), WordTokenizer())
    assert (len(result), count) == (chunks, length)
    assert [token for chunk in result for token in content(chunk)] == list(range(10, 10 + length))


def test_text_after_a_late_comma_moves_to_the_next_chunk() -> None:
    text = f"{words(60)}, {words(14, 60)} {words(5, 80)}"
    (first, second), count = tokenize_to_chunks(text, WordTokenizer())
    assert content(first)[-1] == COMMA and len(content(first)) == 61
    assert len(content(second)) == 19
    assert count == 75 + 19


def test_weights_move_along_with_their_tokens() -> None:
    text = f"{words(70)}, (x:1.5) y z v more"
    (first, second), _ = tokenize_to_chunks(text, WordTokenizer())
    assert len(content(first)) == 71
    assert set(first.multipliers) == {1.0}
    assert second.multipliers[:3] == [1.0, 1.5, 1.0]


@pytest.mark.parametrize(("backtrack", "first_length"), [(0, 75), (14, 75), (15, 61), (20, 61)])
def test_backtrack_reaches_so_far(backtrack: int, first_length: int) -> None:
    text = f"{words(60)}, {words(20, 60)}"
    (first, _), _ = tokenize_to_chunks(text, WordTokenizer(), comma_padding_backtrack=backtrack)
    assert len(content(first)) == first_length


def test_a_comma_that_would_begin_a_chunk_stays_there() -> None:
    (first, second), _ = tokenize_to_chunks(f"{words(70)}, {words(4, 70)}, x", WordTokenizer())
    assert len(content(first)) == 75
    assert content(second)[0] == COMMA


def test_break_fills_up_the_chunk() -> None:
    (first, second), count = tokenize_to_chunks("a BREAK b c", WordTokenizer())
    assert (content(first), content(second), count) == ([10], [11, 12], 77)


def test_break_in_brackets_is_a_word() -> None:
    (chunk,), _ = tokenize_to_chunks("(a BREAK b)", WordTokenizer())
    assert len(content(chunk)) == 3
    assert chunk.multipliers[2] == -1.1


def test_break_at_the_end_leaves_no_empty_chunk() -> None:
    chunks, count = tokenize_to_chunks("a BREAK", WordTokenizer())
    assert (len(chunks), count) == (1, 75)


def test_emphasis_none_reads_no_brackets() -> None:
    tokenizer = WordTokenizer()
    (chunk,), _ = tokenize_to_chunks("(a:1.5) BREAK [b]", tokenizer, emphasis="None")
    assert set(chunk.multipliers) == {1.0}
    assert list(tokenizer.vocabulary) == ["(a:1.5)", "BREAK", "[b]"]


def test_an_embedding_takes_as_many_places_as_it_has_vectors() -> None:
    tokenizer = WordTokenizer()
    embedding = FakeEmbedding("my thing", torch.ones(3, 4))
    (chunk,), count = tokenize_to_chunks("a (my thing:1.2) b", tokenizer, FakeEmbeddings(tokenizer, embedding))
    assert count == 5
    assert chunk.tokens[2:5] == [0, 0, 0]
    assert chunk.multipliers[1:6] == [1.0, 1.2, 1.2, 1.2, 1.0]
    assert [(fix.offset, fix.embedding) for fix in chunk.fixes] == [(1, embedding)]


def test_an_embedding_that_does_not_fit_starts_a_chunk() -> None:
    tokenizer = WordTokenizer()
    lookup = FakeEmbeddings(tokenizer, FakeEmbedding("thing", torch.ones(3, 4)))
    (first, second), _ = tokenize_to_chunks(f"{words(73)} thing x", tokenizer, lookup)
    assert len(content(first)) == 73 and not first.fixes
    assert second.fixes[0].offset == 0 and len(content(second)) == 4


def test_an_embedding_stays_behind_when_text_moves() -> None:
    """A1111 moves the zeros that keep its places but not the embedding itself."""
    tokenizer = WordTokenizer()
    lookup = FakeEmbeddings(tokenizer, FakeEmbedding("thing", torch.ones(2, 4)))
    (first, second), _ = tokenize_to_chunks(f"{words(70)}, thing {words(5, 70)}", tokenizer, lookup)
    assert first.fixes[0].offset == 71 and not second.fixes
    assert second.tokens[1:3] == [0, 0]


def test_an_embedding_larger_than_a_chunk() -> None:
    tokenizer = WordTokenizer()
    lookup = FakeEmbeddings(tokenizer, FakeEmbedding("huge", torch.ones(76, 4)))
    with pytest.raises(BadRequest, match="huge"):
        tokenize_to_chunks("huge", tokenizer, lookup)


def test_old_emphasis_weighs_all_that_follows_a_bracket() -> None:
    tokenizer = WordTokenizer(vocabulary={"((": 10, ")": 11, "[": 12, "()": 13})
    chunk = old_chunk("a (( b ) c [ d () BREAK", tokenizer)
    words = tokenizer.tokenize("a b c d () BREAK")
    assert chunk.tokens == [BOS, *words, *[EOS] * 70]
    up, down = 1.1 * 1.1, 1.1 * 1.1 * (1 / 1.1)
    last = down * (1 / 1.1)
    assert chunk.multipliers == pytest.approx([1.0, 1.0, up, down, *[last] * 3, *[1.0] * 70])
    assert old_chunk("a ((", tokenizer, emphasis="None").tokens[2] == 10


def test_old_emphasis_cuts_off_what_does_not_fit() -> None:
    tokenizer = WordTokenizer()
    embedding = FakeEmbedding("late", torch.zeros(3, 3))
    chunk = old_chunk("x " * 73 + "late late", tokenizer, FakeEmbeddings(tokenizer, embedding))
    assert len(chunk.tokens) == len(chunk.multipliers) == 77 and chunk.tokens[-1] == EOS
    assert [fix.offset for fix in chunk.fixes] == [73]
