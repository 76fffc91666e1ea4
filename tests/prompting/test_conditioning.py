from __future__ import annotations

import pytest
import torch

from sdwebui_api.errors import BadRequest
from sdwebui_api.prompting.conditioning import PromptTiming, build_conditioning, build_uncond, stack_padded
from sdwebui_api.prompting.encoding import TextConditioner, TextSettings
from tests.prompting.fakes import FakeEmbedding, FakeEmbeddings, FakeTextEncoder

PLAIN = TextSettings(emphasis="Ignore")
LONG = " ".join(["word"] * 80)


class Room:
    """A conditioner, and the way back from a tensor's row to the words in it."""

    def __init__(self, *embeddings: FakeEmbedding) -> None:
        self.encoder = FakeTextEncoder()
        lookup = FakeEmbeddings(self.encoder.tokenizer, *embeddings)
        self.conditioner = TextConditioner(self.encoder, lookup)

    def words(self, row: torch.Tensor) -> str:
        names = {number: word for word, number in self.encoder.tokenizer.vocabulary.items()}
        return " ".join(names[int(token)] for token in row[:, 0] if int(token) in names)


def test_parts_point_into_the_rows() -> None:
    room = Room()
    batch = build_conditioning(["a AND b :0.5", "c"], PromptTiming(10), room.conditioner, PLAIN)
    step = batch.at(0)
    assert step.parts == [[(0, 1.0), (1, 0.5)], [(2, 1.0)]]
    assert step.cond.shape == (3, 77, 3)
    assert [room.words(row) for row in step.cond] == ["a", "b", "c"]


def test_an_entry_holds_up_to_and_including_its_end() -> None:
    room = Room()
    batch = build_conditioning(["[a:b:3] x"], PromptTiming(5), room.conditioner, PLAIN)
    texts = [room.words(batch.at(step).cond[0]) for step in range(7)]
    # Steps are counted from 0, so the first text lasts one step longer than it says, and beyond the end it returns.
    assert texts == ["a x", "a x", "a x", "a x", "b x", "b x", "a x"]


def test_the_hires_pass_has_its_own_schedule() -> None:
    room = Room()
    batch = build_conditioning(["[a:b:3] [c:d:12]"], PromptTiming(10, 5), room.conditioner, PLAIN)
    assert [room.words(batch.at(step).cond[0]) for step in (0, 2, 3)] == ["b c", "b c", "b d"]


def test_shorter_prompts_repeat_their_last_vector() -> None:
    room = Room()
    step = build_conditioning(["a", LONG], PromptTiming(10), room.conditioner, PLAIN).at(0)
    assert step.cond.shape == (2, 154, 3)
    assert torch.equal(step.cond[0, 77:], step.cond[0, 76:77].expand(77, -1))


def test_negative_prompts() -> None:
    room = Room()
    uncond = build_uncond(["a AND [b:c:1]", LONG, "a AND [b:c:1]"], PromptTiming(4), room.conditioner, PLAIN)
    assert uncond.at(0).shape == (3, 154, 3)
    assert [room.words(row) for row in uncond.at(2)][::2] == ["a AND c", "a AND c"]
    assert len(room.encoder.calls) == 3


def test_every_text_is_encoded_once() -> None:
    room = Room()
    build_conditioning(["a AND b", "a AND b", "a"], PromptTiming(10), room.conditioner, PLAIN)
    assert len(room.encoder.calls) == 2


def test_the_report_names_embeddings_in_the_order_of_a1111() -> None:
    one, two = (FakeEmbedding(name, torch.ones(1, 3), f"hash-{name}") for name in ("one", "two"))
    room = Room(one, two)
    uncond = build_uncond(["one"], PromptTiming(4), room.conditioner, PLAIN)
    cond = build_conditioning(["one two AND (two)", "one two"], PromptTiming(4), room.conditioner, PLAIN)
    assert cond.report.after(uncond.report).infotext() == {
        "TI hashes": "two: hash-two, one: hash-one, two: hash-two, one: hash-one",
        "Emphasis": "Ignore",
    }


def test_stack_padded_keeps_equal_lengths() -> None:
    tensors = [torch.zeros(77, 2), torch.ones(77, 2)]
    assert torch.equal(stack_padded(tensors), torch.stack(tensors))


def test_a_batch_of_endless_prompts_is_refused() -> None:
    """Its conditioning would take gigabytes: in one text of many chunks, in many parts, or in many images."""
    room = Room()
    for prompts in (["a BREAK " * 2100], [" AND ".join(["a BREAK b"] * 1100)], ["a BREAK " * 20] * 128):
        with pytest.raises(BadRequest) as caught:
            build_conditioning(prompts, PromptTiming(1), room.conditioner, PLAIN).at(0)
        assert caught.value.field == "prompt"
