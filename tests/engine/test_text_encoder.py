from __future__ import annotations

import torch
from torch import Tensor

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.families.ldm import assemble_clip_text
from sdwebui_api.engine.filling import Weights, materialise
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.model_config import ModelConfig
from sdwebui_api.engine.text_encoder import TextEncoder, Tokenizer
from tests.engine.ldm_factory import Size, fill, text_shapes

CPU = torch.device("cpu")


def encoder(layers: int = 3) -> TextEncoder:
    tensors = fill(text_shapes(Size(context=64, text_layers=layers)))
    module = materialise(assemble_clip_text(tensors, ModelConfig(text_heads=2)), Weights(torch.float32, CPU), "text")
    return TextEncoder("key", module, Tokenizer(), Device(DevicePlan(CPU)))


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
    ours = encoder()
    tokens = tokens_of(ours, "a red apple")
    with torch.no_grad():
        theirs = ours._module(tokens, output_hidden_states=True)
        assert torch.allclose(ours.forward(tokens, [[]]).context, theirs.last_hidden_state, atol=1e-5)
        skipped = ours._module.final_layer_norm(theirs.hidden_states[-2])
        assert torch.allclose(ours.forward(tokens, [[]], 2).context, skipped, atol=1e-5)


def test_skipping_all_layers_and_more_leaves_the_embeddings() -> None:
    ours = encoder(layers=2)
    tokens = tokens_of(ours, "a red apple")
    assert torch.equal(ours.forward(tokens, [[]], 3).context, ours.forward(tokens, [[]], 12).context)
    assert torch.equal(ours.forward(tokens, [[]], 0).context, ours.forward(tokens, [[]], 1).context)


def test_an_embedding_takes_the_place_of_tokens() -> None:
    ours = encoder()
    table = ours._module.embeddings.token_embedding.weight
    written = tokens_of(ours, "a red apple")
    blank = written.clone()
    blank[0, 2:4] = 0
    vectors = table[written[0, 2:4]].clone()
    assert torch.equal(ours.forward(blank, [[(1, vectors)]]).context, ours.forward(written, [[]]).context)
    assert not torch.equal(ours.forward(blank, [[]]).context, ours.forward(written, [[]]).context)


def test_vectors_beyond_the_end_are_cut_off() -> None:
    ours = encoder()
    assert ours.forward(tokens_of(ours, "cat"), [[(74, torch.ones(5, 64))]]).context.shape == (1, 77, 64)


def test_rows_have_their_own_embeddings() -> None:
    ours = encoder()
    tokens = tokens_of(ours, "a red apple").repeat(2, 1)
    result = ours.forward(tokens, [[], [(0, torch.ones(1, 64))]]).context
    assert torch.allclose(result[:1], ours.forward(tokens[:1], [[]]).context, atol=1e-5)
    assert not torch.allclose(result[0], result[1])


def test_the_golden_encoder(tiny: DiffusionModel) -> None:
    assert (tiny.text_encoder.width, tiny.text_encoder.layers) == (128, 4)
    result = tiny.text_encoder.forward(tokens_of(tiny.text_encoder, "a red apple"), [[]], 1).context
    assert result.shape == (1, 77, 128) and result.dtype == torch.float32
