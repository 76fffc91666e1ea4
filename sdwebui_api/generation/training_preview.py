"""Pictures that show how far a training is: ordinary generation on a model with the state of the moment."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from sdwebui_api.engine.embedding_files import TEXT_CHUNK
from sdwebui_api.imaging.codec import encode_image
from sdwebui_api.jobs.job import Job

if TYPE_CHECKING:
    from sdwebui_api.engine.model import DiffusionModel
    from sdwebui_api.generation.request import GeneratedImage, GenerationRequest, GenerationResult


class Generates(Protocol):
    def run(self, request: GenerationRequest, job: Job) -> GenerationResult: ...


@dataclass(frozen=True)
class OneModel:
    """An engine that lends the same model whatever is asked for."""

    model: DiffusionModel

    @contextmanager
    def lease(self, *asked: Any, **more: Any) -> Iterator[DiffusionModel]:
        yield self.model


Painter = Callable[[OneModel], Generates]
"""A generator that draws with the given engine."""


def paint(painter: Painter, model: DiffusionModel, request: GenerationRequest, name: str) -> GeneratedImage | None:
    """The first picture of `request`. Raises what generation raises."""
    result = painter(OneModel(model)).run(request, Job(f"{name}-preview", "txt2img"))
    return result.images[0] if result.images else None


def png_of(image: GeneratedImage, embedding: Mapping[Any, Any] | None) -> bytes:
    """A PNG file, with `embedding` (the content of its file) inside: the picture can then be used as the embedding."""
    items = None if embedding is None else {TEXT_CHUNK: base64.b64encode(_as_json(embedding)).decode()}
    return encode_image(image.image, "png", infotext=image.infotext, items=items)


def _as_json(data: Mapping[Any, Any]) -> bytes:
    def plain(value: Any) -> Any:
        return {"TORCHTENSOR": value.tolist()} if isinstance(value, Tensor) else str(value)

    return json.dumps(data, default=plain).encode()
