from __future__ import annotations

import threading

import pytest
import torch

from sdwebui_api.prompting.encoding import EncodingCache, TextConditioner, TextReport, TextSettings
from tests.prompting.fakes import BOS, EOS, FakeEmbedding, FakeEmbeddings, FakeTextEncoder

PLAIN = TextSettings(emphasis="Ignore")


def long_text(count: int) -> str:
    return " ".join(f"w{i}" for i in range(count))


def test_chunks_of_a_text_are_joined() -> None:
    encoded = TextConditioner(FakeTextEncoder()).encode([long_text(80)], TextSettings(clip_skip=2))
    (tensor,) = encoded.tensors
    assert tensor.shape == (154, 3)
    assert tensor[:3, 0].tolist() == [BOS, 10, 11]
    assert tensor[77:79, 0].tolist() == [BOS, 85]
    assert set(tensor[:, 2].tolist()) == {3.0}


def test_shorter_texts_of_a_call_are_filled_up_with_empty_chunks() -> None:
    short, long = TextConditioner(FakeTextEncoder()).encode(["a", long_text(80)], PLAIN).tensors
    assert short.shape == long.shape
    assert short[77:, 0].tolist() == [BOS] + [EOS] * 76


def test_equal_texts_are_encoded_once() -> None:
    encoder = FakeTextEncoder()
    encoded = TextConditioner(encoder).encode(["a", "b", "a"], PLAIN)
    assert [call.shape for call in encoder.calls] == [(2, 77)]
    assert torch.equal(encoded.tensors[0], encoded.tensors[2])
    assert not torch.equal(encoded.tensors[0], encoded.tensors[1])


def test_many_texts_are_encoded_in_turns() -> None:
    encoder = FakeTextEncoder()
    encoded = TextConditioner(encoder).encode([f"w{i}" for i in range(70)], PLAIN)
    assert [len(call) for call in encoder.calls] == [32, 32, 6]
    assert [int(tensor[1, 0]) for tensor in encoded.tensors] == list(range(10, 80))


def test_emphasis_original_takes_the_mean_over_all_texts_with_their_repeats() -> None:
    conditioner = TextConditioner(FakeTextEncoder())
    texts = ["(a:3)", "b", "b", "b"]
    raw = torch.stack(conditioner.encode(texts, PLAIN).tensors)
    weights = torch.ones(4, 77)
    weights[0, 1] = 3
    weighted = raw * weights[..., None]
    expected = weighted * (raw.mean() / weighted.mean())
    assert torch.allclose(torch.stack(conditioner.encode(texts, TextSettings()).tensors), expected, atol=1e-5)


def test_embeddings_are_put_in_and_reported() -> None:
    encoder = FakeTextEncoder()
    one = FakeEmbedding("one", torch.full((2, 3), 7.0), "aaa")
    nameless = FakeEmbedding("odd:name,", torch.full((1, 3), 8.0), None)
    lookup = FakeEmbeddings(encoder.tokenizer, nameless, one)
    encoded = TextConditioner(encoder, lookup).encode(["x one y", "odd:name, one"], PLAIN)
    assert encoded.tensors[0][2:4].tolist() == [[7.0] * 3] * 2
    assert encoded.report.embeddings == (("one", "aaa"), ("odd:name,", None))
    assert encoded.report.infotext() == {"TI hashes": "one: aaa"}
    assert encoded.report.infotext(add_hashes=False) == {}


@pytest.mark.parametrize(
    ("texts", "mode", "expected"),
    [
        (["(a)"], "Original", None),
        (["a"], "Ignore", None),
        (["a", "[b"], "Ignore", "Ignore"),
        (["(a)"], "None", "None"),
        ([r"\(a\)"], "No norm", "No norm"),
    ],
)
def test_emphasis_is_reported_when_it_matters(texts: list[str], mode: str, expected: str | None) -> None:
    report = TextConditioner(FakeTextEncoder()).encode(texts, TextSettings(emphasis=mode)).report
    assert report.emphasis == expected
    assert report.infotext() == ({"Emphasis": expected} if expected else {})


def test_later_reports_come_first() -> None:
    negative = TextReport((("a", "1"),), "Ignore")
    positive = TextReport((("b:", "2"), ("a", "1")))
    assert positive.after(negative).infotext() == {"TI hashes": "b: 2, a: 1, a: 1", "Emphasis": "Ignore"}


def test_the_empty_prompt() -> None:
    assert TextConditioner(FakeTextEncoder()).empty(TextSettings()).shape == (1, 77, 3)


def test_the_cache_answers_equal_questions_only() -> None:
    encoder = FakeTextEncoder()
    cache = EncodingCache()
    conditioner = TextConditioner(encoder, cache=cache)
    first = conditioner.encode(["(a)"], TextSettings())
    assert torch.equal(
        TextConditioner(encoder, cache=cache).encode(["(a)"], TextSettings()).tensors[0], first.tensors[0]
    )
    assert len(encoder.calls) == 1
    conditioner.encode(["(a)"], TextSettings(clip_skip=2))
    conditioner.encode(["(a:1.2)"], TextSettings())
    conditioner.encode(["(a)", "(a)", "b"], TextSettings())
    TextConditioner(FakeTextEncoder(encoder.tokenizer, "other", encoder.calls), cache=cache).encode(["(a)"], PLAIN)
    assert len(encoder.calls) == 5


@pytest.mark.parametrize("hashing", [True, False])
def test_an_embedding_that_changed_is_encoded_anew(hashing: bool) -> None:
    encoder = FakeTextEncoder()
    cache = EncodingCache()
    for version in (1, 2, 2):
        tensor = torch.full((1, 3), float(version))
        embedding = FakeEmbedding("one", tensor, str(version) if hashing else "")
        lookup = FakeEmbeddings(encoder.tokenizer, embedding)
        TextConditioner(encoder, lookup, cache).encode(["one"], PLAIN)
    assert len(encoder.calls) == 2


def test_the_cache_drops_what_was_used_least_recently() -> None:
    cache = EncodingCache(max_bytes=3 * 400)
    for name in "abc":
        cache.put(name, torch.zeros(100))
    assert cache.get("a") is not None
    cache.put("d", torch.zeros(100))
    cache.put("huge", torch.zeros(1000))
    assert [name for name in ("a", "b", "c", "d", "huge") if cache.get(name) is not None] == ["a", "c", "d"]
    assert cache.nbytes == 1200
    cache.clear()
    assert (cache.nbytes, cache.get("a")) == (0, None)


def test_the_cache_is_used_by_many_threads() -> None:
    cache = EncodingCache(max_bytes=10 * 400)

    def work(offset: int) -> None:
        for i in range(500):
            cache.put((i + offset) % 40, torch.zeros(100))
            cache.get(i % 40)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.nbytes == 4000


def test_infotext_names_first_what_was_encoded_first() -> None:
    found, brackets = TextReport((("cat", "0123456789ab"),), "Ignore"), TextReport((), "Ignore")
    assert list(found.after(brackets).infotext()) == ["Emphasis", "TI hashes"]
    assert list(brackets.after(found.after(brackets)).infotext()) == ["Emphasis", "TI hashes"]
    assert (
        list(found.after(found).infotext()) == list(found.after(TextReport()).infotext()) == ["TI hashes", "Emphasis"]
    )
