"""Services with a generator that draws plain pictures: the doors without torch models behind them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from sdwebui_api.api.services import Services
from sdwebui_api.catalog.upscalers import HiresUpscalers
from sdwebui_api.catalog.whole import build_catalog, face_restorers
from sdwebui_api.cluster import UserViews
from sdwebui_api.config.flags import Flags, parse_flags
from sdwebui_api.config.options import OptionStore
from sdwebui_api.config.paths import Paths
from sdwebui_api.control.annotators import AnnotatorFolders
from sdwebui_api.control.service import ControlService
from sdwebui_api.generation.request import GeneratedImage, GenerationRequest, GenerationResult
from sdwebui_api.generation.resolve import Resolver
from sdwebui_api.generation.sampler_names import SamplingNames, sampler_rows, schedule_rows
from sdwebui_api.generation.training import TrainingOutcome
from sdwebui_api.generation.training_request import NewEmbedding, NewHypernetwork, TrainingFiles, TrainingRequest
from sdwebui_api.jobs.job import Job
from sdwebui_api.jobs.runner import JobRunner
from sdwebui_api.metrics import EngineStatistics
from sdwebui_api.postprocess.faces import FaceLibrary
from sdwebui_api.postprocess.interrogate import Interrogator
from sdwebui_api.postprocess.upscalers import UpscalerLibrary
from sdwebui_api.scripting.host import ScriptHost
from sdwebui_api.storage.links import link_fetcher
from sdwebui_api.storage.local import LocalStorage
from sdwebui_api.storage.results import ResultStore
from sdwebui_api.storage.roots import save_roots

GOLDEN = Path(__file__).parents[1] / "golden"


@cache
def _hash_cache_folder() -> Path:
    """One for all tests of a run: the golden checkpoint is hashed once."""
    folder = Path(tempfile.mkdtemp(prefix="sdwebui-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class FakeGenerator:
    """One grey picture per image asked for. While `gate` is closed, jobs stay at work, one step per 5 ms."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.requests: list[GenerationRequest] = []
        self.prepared: list[GenerationRequest] = []
        self.error: Exception | None = None

    def run(self, request: GenerationRequest, job: Job) -> GenerationResult:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        job.set_total(request.n_iter)
        images = []
        for index in range(request.n_iter):
            job.start_batch(f"Batch {index + 1} out of {request.n_iter}" if request.n_iter > 1 else None, request.steps)
            self._sample(request, job)
            images += [self._picture(request) for _ in range(request.batch_size)]
            job.pictures += request.batch_size
            job.next_part()
            if job.interrupted:
                break
        return GenerationResult(images, {"prompt": request.prompt, "seed": request.seed, "infotexts": ["fake"]})

    def prepare(self, request: GenerationRequest, gone: Callable[[], bool]) -> None:
        self.prepared.append(request)

    def _sample(self, request: GenerationRequest, job: Job) -> None:
        step = 0
        while not self.gate.wait(0.005) and not job.should_stop:
            step = min(step + 1, request.steps)
            job.step(step, lambda: Image.new("RGB", (8, 8), "red"))

    @staticmethod
    def _picture(request: GenerationRequest) -> GeneratedImage:
        return GeneratedImage(Image.new("RGB", (8, 8), "grey"), f"{request.prompt}\nSteps: {request.steps}")


class FakeTrainer:
    """Looks everything up, learns nothing. While `gate` is closed trainings stay at work."""

    def __init__(self, files: TrainingFiles) -> None:
        self.files = files
        self.gate = threading.Event()
        self.gate.set()
        self.trained: list[TrainingRequest] = []

    def create_embedding(self, new: NewEmbedding, checkpoint: Any, vae: Any, job: Job) -> Path:
        return new.path

    def create_hypernetwork(self, new: NewHypernetwork, job: Job) -> Path:
        return new.path

    def train(self, request: TrainingRequest, job: Job) -> TrainingOutcome:
        self.trained.append(request)
        job.set_total(1)
        job.start_batch(f"train-{request.kind}", request.loop.steps)
        step = 0
        while not self.gate.wait(0.005) and not job.interrupted:
            step += 1
            job.step(min(step, request.loop.steps))
        return TrainingOutcome(request.path, step)


class FakeEngine:
    def __init__(self) -> None:
        self.is_ready = True
        self.warmed: list[str] = []
        self.unloaded = 0

    def ready(self) -> bool:
        return self.is_ready

    def memory(self) -> dict[str, Any]:
        return {"ram": {"free": 1, "used": 1, "total": 2}, "cuda": {"error": "unavailable"}}

    def statistics(self) -> EngineStatistics:
        return EngineStatistics({1: 3, 4: 2}, {"weights": (5, 1)}, 1000, {"used": 10, "total": 20})

    def embeddings(self, checkpoint: Any) -> dict[str, Any]:
        return {"loaded": {}, "skipped": {}}

    def refresh_embeddings(self) -> None:
        return

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        return len(prompt.split()), 75

    def warm(self, checkpoint: Any) -> None:
        self.warmed.append(checkpoint.name)

    def unload(self) -> None:
        self.unloaded += 1


def golden_flags(data_dir: Path, *more: str) -> Flags:
    """The flags of a server on the golden model tree, as it was recorded: CPU, 32 bits."""
    models = GOLDEN / "models"
    return parse_flags(
        [
            "--data-dir", str(data_dir), "--models-dir", str(models), "--embeddings-dir", str(models / "embeddings"),
            "--styles-file", str(models / "styles.csv"), "--no-half", "--use-cpu", "all", "--nowebui", *more,
        ],
        environ={},
    )  # fmt: skip


def fake_services(data_dir: Path, *flags: str, max_queue: int = 256, concurrency: int = 1) -> Services:
    """Real catalog, options, resolver and runner over the golden models; fake engine and generator."""
    read = golden_flags(data_dir, *flags)
    paths = replace(Paths.from_flags(read), cache_dir=_hash_cache_folder())
    catalog = build_catalog(read, paths)
    results = ResultStore(save_roots(read, paths.data_dir))
    for file in catalog.checkpoints.all(compute_hashes=True):
        assert file.known_title
    services = Services(
        flags=read,
        options=OptionStore(paths.options_file),
        catalog=catalog,
        resolver=Resolver(catalog, SamplingNames(lenient=read.lenient), HiresUpscalers(catalog.upscalers)),
        generator=FakeGenerator(),
        upscalers=UpscalerLibrary(None, catalog.upscalers),
        interrogator=Interrogator(None, paths.interrogate_dir),
        faces=FaceLibrary(None, face_restorers(read, paths)),
        scripts=ScriptHost(),
        control=ControlService(catalog.control_models, AnnotatorFolders(paths)),
        engine=FakeEngine(),
        runner=JobRunner(max_queue, concurrency, fair=read.cluster),
        executor=ThreadPoolExecutor(2, "door"),
        preview_executor=ThreadPoolExecutor(1, "preview"),
        sampler_rows=sampler_rows(),
        schedule_rows=schedule_rows(),
        merge_folder=data_dir / "merged",
        trainer=FakeTrainer(TrainingFiles(paths, LocalStorage(data_dir))),
        links=link_fetcher(read, results.fetchers()),
        results=results,
    )
    if read.cluster:
        services.views = UserViews(services, _equip)
    return services


def _equip(view: Services, paths: Paths) -> None:
    """As `app.build`, with what is faked."""
    view.trainer = FakeTrainer(TrainingFiles(paths.with_own_networks(), LocalStorage(paths.data_dir)))
