from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.families.ldm import assemble_clip_text
from sdwebui_api.engine.filling import Weights, materialise
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.model_config import ModelConfig
from sdwebui_api.engine.source import LentText, LoadedText
from sdwebui_api.engine.text_encoder import TextEncoder, Tokenizer
from tests.engine.ldm_factory import Size, fill, text_shapes

CPU = torch.device("cpu")


def clip(layers: int = 3) -> Any:
    tensors = fill(text_shapes(Size(context=64, text_layers=layers)))
    return materialise(assemble_clip_text(tensors, ModelConfig(text_heads=2)), Weights(torch.float32, CPU), "text")


def encoder(module: Any) -> TextEncoder:
    lent = LentText("key", 64, lambda: nullcontext(LoadedText(module)))
    return TextEncoder("key", lent, Tokenizer(), Device(DevicePlan(CPU)))


def tokens_of(encoder: TextEncoder, text: str) -> Tensor:
    tokenizer = encoder.tokenizer
    words = tokenizer.tokenize(text)
    return torch.tensor([[tokenizer.bos_id, *words, *[tokenizer.eos_id] * (76 - len(words))]])


def test_token_ids_are_those_of_openai_clip() -> None:
    tokenizer = Tokenizer()
    assert tokenizer.tokenize("a red apple") == [320, 736, 3055]
    assert tokenizer.tokenize("A Red  APPLE\n") == [320, 736, 3055]
    assert tokenizer.tokenize("") == []
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.comma_id) == (49406, 49407, 267)
    assert len(tokenizer.tokenize("word " * 500)) == 500


def test_it_agrees_with_transformers_own_forward() -> None:
    module = clip()
    ours = encoder(module)
    tokens = tokens_of(ours, "a red apple")
    with torch.no_grad():
        theirs = module(tokens, output_hidden_states=True)
        assert torch.allclose(ours.forward(tokens, [[]]).context, theirs.last_hidden_state, atol=1e-5)
        skipped = module.final_layer_norm(theirs.hidden_states[-2])
        assert torch.allclose(ours.forward(tokens, [[]], 2).context, skipped, atol=1e-5)


def test_skipping_all_layers_and_more_leaves_the_embeddings() -> None:
    ours = encoder(clip(layers=2))
    tokens = tokens_of(ours, "a red apple")
    assert torch.equal(ours.forward(tokens, [[]], 3).context, ours.forward(tokens, [[]], 12).context)
    assert torch.equal(ours.forward(tokens, [[]], 0).context, ours.forward(tokens, [[]], 1).context)


def test_an_embedding_takes_the_place_of_tokens() -> None:
    module = clip()
    ours = encoder(module)
    table = module.embeddings.token_embedding.weight
    written = tokens_of(ours, "a red apple")
    blank = written.clone()
    blank[0, 2:4] = 0
    vectors = table[written[0, 2:4]].clone()
    assert torch.equal(ours.forward(blank, [[(1, vectors)]]).context, ours.forward(written, [[]]).context)
    assert not torch.equal(ours.forward(blank, [[]]).context, ours.forward(written, [[]]).context)


def test_vectors_beyond_the_end_are_cut_off() -> None:
    ours = encoder(clip())
    assert ours.forward(tokens_of(ours, "cat"), [[(74, torch.ones(5, 64))]]).context.shape == (1, 77, 64)


def test_rows_have_their_own_embeddings() -> None:
    ours = encoder(clip())
    tokens = tokens_of(ours, "a red apple").repeat(2, 1)
    result = ours.forward(tokens, [[], [(0, torch.ones(1, 64))]]).context
    assert torch.allclose(result[:1], ours.forward(tokens[:1], [[]]).context, atol=1e-5)
    assert not torch.allclose(result[0], result[1])


def test_the_golden_encoder(tiny: DiffusionModel) -> None:
    assert tiny.text_encoder.width == 128
    result = tiny.text_encoder.forward(tokens_of(tiny.text_encoder, "a red apple"), [[]], 1).context
    assert result.shape == (1, 77, 128) and result.dtype == torch.float32


def test_models_are_there_from_their_first_use_until_they_are_let_go() -> None:
    module, held = clip(), [0, 0]

    @contextmanager
    def lend() -> Iterator[LoadedText]:
        held[0] += 1
        yield LoadedText(module)
        held[1] += 1

    ours = TextEncoder("key", LentText("key", 64, lend), Tokenizer(), Device(DevicePlan(CPU)))
    tokens = tokens_of(ours, "a red apple")
    ours.let_go()
    assert held == [0, 0] and ours.width == 64
    found = ours.forward(tokens, [[]]).context
    with ours.holding():
        assert torch.equal(ours.encode(tokens, [[]], 1).context, found)
    assert ours.token_vectors([320]).shape == (1, 64)
    assert held == [1, 0]
    ours.let_go()
    assert held == [1, 1]
    assert torch.equal(ours.forward(tokens, [[]]).context, found)
    assert held == [2, 1]
