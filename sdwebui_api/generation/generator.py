"""The one door into generation: a resolved request and its job go in, finished pictures come out."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import torch

from sdwebui_api.generation import describe
from sdwebui_api.generation.finish import Finisher
from sdwebui_api.generation.img2img import ImageToImage
from sdwebui_api.generation.keeping import PictureKeeper
from sdwebui_api.generation.plan import plan_generation
from sdwebui_api.generation.request import GeneratedImage, GenerationRequest, GenerationResult
from sdwebui_api.generation.run import Run
from sdwebui_api.generation.txt2img import TextToImage
from sdwebui_api.prompting.encoding import EncodingCache
from sdwebui_api.storage.local import LocalStorage

if TYPE_CHECKING:
    from sdwebui_api.catalog.checkpoints import CheckpointFile
    from sdwebui_api.catalog.styles import StyleCatalog
    from sdwebui_api.catalog.vaes import VaeFile
    from sdwebui_api.engine.engine import Engine
    from sdwebui_api.engine.model import DiffusionModel
    from sdwebui_api.jobs.job import Job
    from sdwebui_api.postprocess.upscalers import UpscalerLibrary


class StyleSource(Protocol):
    @property
    def styles(self) -> StyleCatalog: ...


class Generator:
    """Runs requests, each in its caller's thread. Thread-safe: requests share nothing but the engine and caches."""

    def __init__(self, engine: Engine, catalog: StyleSource, storage: LocalStorage, upscalers: UpscalerLibrary) -> None:
        self._engine = engine
        self._catalog = catalog
        self._storage = storage
        self._upscalers = upscalers
        self._encodings = EncodingCache()

    def run(self, request: GenerationRequest, job: Job) -> GenerationResult:
        """Generate all pictures of `request`.

        When the job is interrupted the pictures so far come back, the last one unfinished. Raises Cancelled when
        the job is cancelled, BadRequest, UnusableModel and OutOfMemory.
        """
        plan = plan_generation(request, self._catalog.styles.all())
        with ExitStack() as leases, torch.inference_mode():

            def borrow(checkpoint: CheckpointFile, vae: VaeFile | None) -> DiffusionModel:
                return leases.enter_context(self._engine.lease(checkpoint, vae, job.set_text))

            model = borrow(request.checkpoint, request.vae)
            job.set_text(None)
            upscalers = self._upscalers.for_job(job, request.options)
            run = Run(request, plan, job, model, borrow, self._encodings, upscalers)
            run.warnings += describe.unsupported_options(request.options)
            return self._generate(run)

    def _generate(self, run: Run) -> GenerationResult:
        request, job = run.request, run.job
        keeper = PictureKeeper(run, self._storage)
        keeper.keep_init_images()
        workflow = ImageToImage(run, request.init) if request.init else TextToImage(run, keeper)
        finisher = Finisher(run, keeper, workflow.prepared if isinstance(workflow, ImageToImage) else None)
        job.set_total(request.n_iter * workflow.passes)
        images: list[GeneratedImage] = []
        for index in range(request.n_iter):
            job.clear_skip()
            job.check()
            if job.interrupted:
                break
            batch = run.plan.batch(index)
            title = f"Batch {index + 1} out of {request.n_iter}" if request.n_iter > 1 else None
            decoded = workflow.sample(batch, title)
            job.next_part()
            images += finisher.batch(batch, decoded)
        grid = finisher.grid(images)
        images = [grid, *images] if grid else images
        return GenerationResult(images, describe.info(run, images))
