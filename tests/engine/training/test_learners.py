"""Gradients of the two learners on the golden checkpoint, against what autograd gives without our detours."""

from __future__ import annotations

import torch
from torch import nn

from sdwebui_api.engine.embedding_files import Embedding, read_embedding
from sdwebui_api.engine.embeddings import EmbeddingDatabase
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.networks.hypernetworks import Architecture
from sdwebui_api.engine.training import hypernetwork
from sdwebui_api.engine.training.dataset import Batch
from sdwebui_api.engine.training.embedding import EmbeddingLearner, embedding_data, initial_vectors, pickled
from sdwebui_api.prompting.encoding import TextSettings
from sdwebui_api.prompting.learnable import LearnablePrompts

PROMPTS = ("a (gizmo:1.3) on a table", "gizmo, gizmo")


def a_batch(weights: torch.Tensor | None = None) -> Batch:
    latents = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    return Batch(latents, PROMPTS, weights)


def learner_of(model: DiffusionModel, vectors: nn.Parameter) -> EmbeddingLearner:
    encoder = model.text_encoder
    database = EmbeddingDatabase([Embedding("gizmo", vectors, "")], encoder.tokenizer.tokenize, encoder.width)
    return EmbeddingLearner(vectors, LearnablePrompts(encoder, database, TextSettings()), model, model.unet, seed=1)


def test_gradient_of_an_embedding_is_the_slope_of_the_loss(tiny: DiffusionModel) -> None:
    start = initial_vectors(tiny.text_encoder, "apple", 2) + 0.01
    vectors = nn.Parameter(start.clone())
    learner_of(tiny, vectors).accumulate(a_batch(), 1.0)
    direction = vectors.grad / vectors.grad.norm()
    losses = []
    for step in (0.02, -0.02):
        moved = nn.Parameter(start + step * direction)
        losses.append(learner_of(tiny, moved).accumulate(a_batch(), 1.0))
    slope = (losses[0] - losses[1]) / 0.04
    assert torch.isclose(torch.tensor(slope), vectors.grad.norm(), rtol=0.05)


def test_shared_weights_gather_no_gradients(tiny: DiffusionModel) -> None:
    vectors = nn.Parameter(initial_vectors(tiny.text_encoder, "*", 1))
    learner_of(tiny, vectors).accumulate(a_batch(), 1.0)
    assert all(p.grad is None and not p.requires_grad for p in tiny.unet.module.parameters())


def test_weights_of_parts_of_a_picture_count(tiny: DiffusionModel) -> None:
    vectors = nn.Parameter(initial_vectors(tiny.text_encoder, "*", 1))
    plain = learner_of(tiny, vectors).accumulate(a_batch(), 1.0)
    assert learner_of(tiny, vectors).accumulate(a_batch(torch.ones(2, 1, 8, 8)), 1.0) == plain
    assert learner_of(tiny, vectors).accumulate(a_batch(2 * torch.ones(2, 1, 8, 8)), 1.0) > 1.9 * plain


def test_prompts_are_encoded_as_for_generation(tiny: DiffusionModel) -> None:
    from sdwebui_api.prompting.encoding import TextConditioner

    embedding = Embedding("gizmo", torch.randn(3, 128), "")
    database = EmbeddingDatabase([embedding], tiny.text_encoder.tokenizer.tokenize, 128)
    settings = TextSettings(clip_skip=2)
    learned = LearnablePrompts(tiny.text_encoder, database, settings).encode(PROMPTS)
    usual = TextConditioner(tiny.text_encoder, database).encode(PROMPTS, settings).tensors
    assert torch.equal(learned, torch.stack(usual))


def test_embedding_files_round_trip(tiny: DiffusionModel, tmp_path) -> None:
    path = tmp_path / "word.pt"
    embedding = Embedding("word", torch.randn(2, 128), "", step=7, checkpoint="abc", checkpoint_name="tiny")
    path.write_bytes(pickled(embedding_data(embedding)))
    found = read_embedding(path, "word", hashing=False)
    assert torch.equal(found.tensor, embedding.tensor)
    assert (found.step, found.checkpoint, found.checkpoint_name) == (7, "abc", "tiny")
    assert not path.read_bytes().startswith(b"PK"), "A1111 refuses what newer torch puts into its zip files"


def test_hypernetwork_layers_learn_and_the_shared_unet_stays(tiny: DiffusionModel) -> None:
    torch.manual_seed(0)
    state = hypernetwork.create("net", [128, 192, 768], Architecture((1, 2, 1), "relu", False, False, ()), "Normal")
    twin = tiny.unet.twin("test-twin")
    database = EmbeddingDatabase([], tiny.text_encoder.tokenizer.tokenize, 128)
    texts = LearnablePrompts(tiny.text_encoder, database, TextSettings())
    learner = hypernetwork.HypernetworkLearner(state.network, texts, tiny, twin, 1)
    learner.accumulate(a_batch(), 1.0)
    with_gradient = {width for width, pair in state.network.layers.items() for layer in pair
                     if layer.linear[0].weight.grad is not None}  # fmt: skip
    assert with_gradient == {128, 192}
    assert hypernetwork.context_widths(tiny.unet) == {128, 192}
    assert not any("layers" in name for name, _ in tiny.unet.module.named_modules() if ".to_k" in name)
    with learner.at_rest():
        assert not state.network.layers[128][0].training
    assert state.network.layers[128][0].training
