"""Textual inversion: teaching a model's text encoder a new word (Gal et al. 2022)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from sdwebui_api.engine.embedding_files import Embedding
from sdwebui_api.engine.training.objective import Objective

if TYPE_CHECKING:
    from sdwebui_api.engine.model import DiffusionModel, UNet
    from sdwebui_api.engine.text_encoder import TextEncoder
    from sdwebui_api.engine.training.dataset import Batch

STAR = 265
"""The token `*`, which A1111 writes into every embedding file."""


class Texts(Protocol):
    """Prompts with the word being taught in them."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """[B, 77n, D] float32, without autograd."""
        ...

    def backward(self, texts: Sequence[str], gradient: Tensor) -> None:
        """Pass the gradient of what `encode` gave on to the word's vectors."""
        ...


class EmbeddingLearner:
    """Vectors [v, D] that are taught; a `loop.Learner`."""

    weight_decay = 0.0

    def __init__(self, vectors: nn.Parameter, texts: Texts, model: DiffusionModel, unet: UNet, seed: int) -> None:
        """`texts` must put `vectors` in the place of the word. `unet`: the model's, or a twin."""
        self.vectors = vectors
        self._texts = texts
        self._unet = unet
        self._objective = Objective(model, unet, seed)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [self.vectors]

    def accumulate(self, batch: Batch, scale: float) -> float:
        """UNet and text encoder are held one after the other: other jobs take their turns in between."""
        context = self._texts.encode(batch.prompts).detach().requires_grad_()
        with self._unet.holding(), torch.enable_grad():
            loss = self._objective.loss(batch, context)
            (loss * scale).backward()
            value = loss.item()
        assert context.grad is not None
        self._texts.backward(batch.prompts, context.grad)
        return value


def initial_vectors(text_encoder: TextEncoder, text: str, count: int) -> Tensor:
    """[count, D] float32 on the CPU: the token embeddings of `text` spread over the vectors; zeros without a text.

    Follows A1111's `textual_inversion.create_embedding`.
    """
    tokens = text_encoder.tokenizer.tokenize(text)
    if not tokens:
        return torch.zeros(count, text_encoder.width)
    known = text_encoder.token_vectors(tokens)
    return known[torch.arange(count) * len(known) // count].clone()


def embedding_data(embedding: Embedding) -> dict[str, Any]:
    """The content of A1111's `.pt`."""
    return {
        "string_to_token": {"*": STAR},
        "string_to_param": {"*": embedding.tensor.detach().float().cpu().clone()},
        "name": embedding.name,
        "step": embedding.step,
        "sd_checkpoint": embedding.checkpoint,
        "sd_checkpoint_name": embedding.checkpoint_name,
    }


def pickled(data: dict[str, Any]) -> bytes:
    """As torch wrote files before 1.6: A1111 checks what a file consists of and knows no newer torch's additions."""
    buffer = io.BytesIO()
    torch.save(data, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()
