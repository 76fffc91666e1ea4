"""Creating and training embeddings and hypernetworks: the model is leased, the result written when all is learned."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from sdwebui_api.engine.embedding_files import Embedding, read_embedding
from sdwebui_api.engine.embeddings import EmbeddingDatabase
from sdwebui_api.engine.training import hypernetwork as hypernetworks
from sdwebui_api.engine.training.dataset import Dataset, read_examples
from sdwebui_api.engine.training.embedding import EmbeddingLearner, embedding_data, initial_vectors, pickled
from sdwebui_api.engine.training.hypernetwork import HypernetworkLearner
from sdwebui_api.engine.training.loop import Learner, StepReport, train
from sdwebui_api.errors import BadRequest, Busy, Cancelled, SdWebUIError, UnusableModel, not_stored
from sdwebui_api.generation.training_preview import Painter, paint, png_of
from sdwebui_api.generation.training_records import RunFolder
from sdwebui_api.generation.training_request import NewEmbedding, NewHypernetwork, TrainingFiles, TrainingRequest
from sdwebui_api.prompting.encoding import TextSettings
from sdwebui_api.prompting.learnable import LearnablePrompts

if TYPE_CHECKING:
    from PIL import Image

    from sdwebui_api.catalog.checkpoints import CheckpointFile
    from sdwebui_api.catalog.vaes import VaeFile
    from sdwebui_api.engine.model import DiffusionModel
    from sdwebui_api.jobs.job import Job
    from sdwebui_api.storage.local import LocalStorage

log = logging.getLogger(__name__)


class Lender(Protocol):
    """What is used of the engine."""

    def lease(
        self, checkpoint: CheckpointFile, vae: VaeFile | None = None, on_progress: Callable[[str], None] | None = None
    ) -> AbstractContextManager[DiffusionModel]: ...


@dataclass(frozen=True)
class TrainingOutcome:
    path: Path
    step: int


class Course(Protocol):
    """One thing being taught on one model."""

    @property
    def learner(self) -> Learner: ...

    @property
    def start(self) -> int:
        """Steps of earlier trainings."""
        ...

    def data(self, step: int) -> dict[Any, Any]:
        """The content of the file after `step`."""
        ...

    def showing(self) -> AbstractContextManager[DiffusionModel]:
        """The model as a request would use it that names what is being taught."""
        ...


class Trainer:
    """One training at a time; generation goes on beside it, step by step."""

    def __init__(
        self,
        engine: Lender,
        files: TrainingFiles,
        painter: Painter,
        stopping: Callable[[], bool] = lambda: False,
        *,
        turn: threading.Lock | None = None,
    ) -> None:
        """`painter` draws previews; `stopping`: the server is about to end, so what was learned is to be saved now;
        `turn`: of all trainers that share an engine."""
        self.files = files
        self._engine = engine
        self._painter = painter
        self._stopping = stopping
        self._one = turn or threading.Lock()

    def create_embedding(self, new: NewEmbedding, checkpoint: CheckpointFile, vae: VaeFile | None, job: Job) -> Path:
        """An untrained embedding as wide as the checkpoint's text encoder.

        Raises UnusableModel for a checkpoint that nothing can be trained on.
        """
        with self._engine.lease(checkpoint, vae, job.set_text) as model:
            _check_family(checkpoint, model)
            vectors = initial_vectors(model.text_encoder, new.init_text, new.vectors)
        job.check()
        data = embedding_data(Embedding(new.name, vectors, "", step=0))
        return _store(self.files.storage, new.path, data)

    def create_hypernetwork(self, new: NewHypernetwork, job: Job) -> Path:
        """Raises BadRequest for layers that cannot be built."""
        job.check()
        state = hypernetworks.create(
            new.name, new.widths, new.architecture, new.weight_init, use_dropout=new.use_dropout
        )
        return _store(self.files.storage, new.path, state.data())

    def train(self, request: TrainingRequest, job: Job) -> TrainingOutcome:
        """Teach until the last step, or until the job is interrupted, and replace the file.

        Raises Cancelled, leaving nothing behind; BadRequest, UnusableModel, OutOfMemory; Busy beside another training.
        """
        if not self._one.acquire(blocking=False):
            raise Busy("Another training is running; it can be interrupted or waited for", retry_after=60)
        try:
            with self._engine.lease(request.checkpoint, request.vae, job.set_text) as model:
                course = _course(request, model, job.id)
                return _Training(request, job, model, course, self).run()
        finally:
            self._one.release()


class _Training:
    """One run; the loop's `Watch`."""

    def __init__(
        self, request: TrainingRequest, job: Job, model: DiffusionModel, course: Course, trainer: Trainer
    ) -> None:
        self._request = request
        self._job = job
        self._model = model
        self._course = course
        self._storage = trainer.files.storage
        self._painter = trainer._painter
        self._stopping = trainer._stopping
        self._folder = RunFolder(request.records.folder, request.name, self._storage)
        self._epoch_length = 1
        self._picture: Image.Image | None = None

    def run(self) -> TrainingOutcome:
        request, course = self._request, self._course
        if course.start >= request.loop.steps:
            self._job.set_text("It has been trained for that many steps already")
            return TrainingOutcome(request.path, course.start)
        try:
            step = self._learn()
            self._job.check()
        except Cancelled:
            self._folder.discard()
            raise
        if step > course.start:
            _store(self._storage, request.path, course.data(step))
        log.info("%s %s: trained up to step %d", request.kind, request.name, step)
        return TrainingOutcome(request.path, step)

    def _learn(self) -> int:
        request, job = self._request, self._job
        job.set_total(1)
        job.start_batch(f"train-{request.kind}", request.loop.steps - self._course.start)
        dataset = self._dataset()
        if self.should_stop:
            return self._course.start
        if not dataset.examples:
            raise BadRequest("None of the images can be used; the log tells why", field="data_root")
        self._epoch_length = -(-len(dataset.examples) // (request.loop.batch_size * request.loop.gradient_step))
        if request.records.settings is not None:
            self._folder.write_settings(
                {**request.records.settings, "model": request.checkpoint.title, "images": len(dataset.examples)}
            )
        half = self._model.dtype == torch.float16
        return train(self._course.learner, dataset, request.loop, self, start=self._course.start, half=half)

    def _dataset(self) -> Dataset:
        request, job = self._request, self._job

        def tell(done: int) -> None:
            job.check()
            job.set_text(f"Preparing image {done + 1} of {len(request.images)}")

        images = takewhile(lambda path: not self.should_stop, request.images)
        examples = read_examples(self._model, images, request.rules, request.file_words, request.loop.seed, tell)
        return Dataset(examples, request.writer)

    # -- the loop's watch --------------------------------------------------------------------------------------------

    @property
    def should_stop(self) -> bool:
        return self._job.interrupted or self._stopping()

    def check(self) -> None:
        self._job.check()

    def stepped(self, report: StepReport) -> None:
        records, request = self._request.records, self._request
        self._job.set_text(f"Loss: {report.loss:.7f}, step: {report.step}, last prompt: {report.prompt[:200]}")
        if _due(report.step, records.image_every):
            self._show(report)
        self._job.step(report.step - self._course.start, self._last_picture if self._picture else None)
        if _due(report.step, records.csv_every):
            kind = "textual_inversion" if request.kind == "embedding" else "hypernetwork"
            self._folder.add_loss(f"{kind}_loss.csv", report, self._epoch_length)
        if _due(report.step, records.save_every) and report.step < request.loop.steps:
            data = pickled(self._course.data(report.step))
            self._folder.save(f"{request.kind}s/{request.name}-{report.step}.pt", data)

    def _show(self, report: StepReport) -> None:
        """A preview. One that cannot be drawn never harms the training."""
        request = self._request
        if request.preview is None:
            return
        wanted = replace(request.preview, prompt=report.prompt) if request.preview_follows_prompts else request.preview
        try:
            with self._course.showing() as model:
                image = paint(self._painter, model, wanted, self._job.id)
        except SdWebUIError as error:
            log.warning("no preview of step %d: %s", report.step, error)
            return
        if image is not None:
            embedding = self._course.data(report.step) if request.records.image_with_embedding else None
            self._folder.save(f"images/{request.name}-{report.step}.png", png_of(image, embedding))
            self._picture = image.image

    def _last_picture(self) -> Image.Image:
        assert self._picture is not None
        return self._picture


def _store(storage: LocalStorage, path: Path, data: dict[Any, Any]) -> Path:
    """Raises NotStored."""
    try:
        return storage.save(path, pickled(data))
    except OSError as error:
        raise not_stored(path.name, path.parent, error) from error


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _course(request: TrainingRequest, model: DiffusionModel, job_id: str) -> Course:
    """Raises UnusableModel and BadRequest when model and file do not go together."""
    if model.in_channels != model.latent_channels:
        raise UnusableModel(
            f"{request.checkpoint.name} takes a picture besides the noise (inpainting, editing): "
            "training needs a checkpoint that does not"
        )
    _check_family(request.checkpoint, model)
    if request.kind == "embedding":
        return _EmbeddingCourse(request, model)
    return _HypernetworkCourse(request, model, job_id)


def _check_family(checkpoint: CheckpointFile, model: DiffusionModel) -> None:
    if model.family.label is not None:
        raise UnusableModel(f"{checkpoint.name} is {model.family.title}, which cannot be trained here")


class _EmbeddingCourse:
    """The embedding's vectors are put into the prompts in place of the file's."""

    def __init__(self, request: TrainingRequest, model: DiffusionModel) -> None:
        embedding = read_embedding(request.path, request.name, hashing=False)
        if embedding is None or embedding.shape != model.text_encoder.width:
            raise BadRequest(
                f"it was made for another text encoder than that of {request.checkpoint.name}", field="embedding_name"
            )
        self._request = request
        self._model = model
        vectors = nn.Parameter(embedding.tensor.to(model.device, copy=True))
        self._embedding = replace(embedding, tensor=vectors)
        self.start = embedding.step or 0
        settings = TextSettings.of(request.options)
        texts = LearnablePrompts(model.text_encoder, self._database(model, self._embedding), settings)
        self.learner = EmbeddingLearner(vectors, texts, model, model.unet, request.loop.seed)

    @staticmethod
    def _database(model: DiffusionModel, embedding: Embedding) -> EmbeddingDatabase:
        others = [other for name, other in model.embeddings.loaded.items() if name != embedding.name]
        encoder = model.text_encoder
        return EmbeddingDatabase([*others, embedding], encoder.tokenizer.tokenize, encoder.width)

    def data(self, step: int) -> dict[Any, Any]:
        checkpoint = self._request.checkpoint
        return embedding_data(
            replace(self._embedding, step=step, checkpoint=checkpoint.shorthash, checkpoint_name=checkpoint.model_name)
        )

    @contextmanager
    def showing(self) -> Iterator[DiffusionModel]:
        model = copy.copy(self._model)
        now = replace(self._embedding, tensor=self._embedding.tensor.detach().clone())
        model.embeddings = self._database(self._model, now)
        yield model


class _HypernetworkCourse:
    """The layers hang in a twin of the UNet, so that other jobs do not see them."""

    def __init__(self, request: TrainingRequest, model: DiffusionModel, job_id: str) -> None:
        self._request = request
        self._model = model
        self._state = hypernetworks.read(request.path, request.name, model.device)
        self._unet = model.unet.twin(f"training:{job_id}:{model.unet.key}")
        self.start = self._state.step
        texts = LearnablePrompts(model.text_encoder, model.embeddings, TextSettings.of(request.options))
        self.learner = HypernetworkLearner(self._state.network, texts, model, self._unet, request.loop.seed)

    def data(self, step: int) -> dict[Any, Any]:
        checkpoint = self._request.checkpoint
        return self._state.trained(step, checkpoint.shorthash, checkpoint.model_name).data()

    @contextmanager
    def showing(self) -> Iterator[DiffusionModel]:
        model = copy.copy(self._model)
        model.unet = self._unet
        with self.learner.at_rest():
            yield model
