"""The one door into generation: a resolved request and its job go in, finished pictures come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from sdwebui_api.engine.load_settings import LoadSettings
from sdwebui_api.errors import BadRequest
from sdwebui_api.generation import describe
from sdwebui_api.generation.finish import Finisher
from sdwebui_api.generation.img2img import ImageToImage
from sdwebui_api.generation.keeping import PictureKeeper
from sdwebui_api.generation.networks import ModelLeases, with_networks_of_options
from sdwebui_api.generation.plan import Batch, plan_generation
from sdwebui_api.generation.request import GeneratedImage, GenerationRequest, GenerationResult
from sdwebui_api.generation.run import Run
from sdwebui_api.generation.script_context import PLAIN, JobContext, PipelineCall
from sdwebui_api.generation.txt2img import TextToImage
from sdwebui_api.prompting.encoding import EncodingCache
from sdwebui_api.scripting.chain import HookChain, Part
from sdwebui_api.scripting.hooks import Draft, Files, LendsNetworks, lends_nothing
from sdwebui_api.storage.local import LocalStorage

if TYPE_CHECKING:
    from sdwebui_api.engine.engine import Engine
    from sdwebui_api.generation.resolve import Resolver
    from sdwebui_api.jobs.job import Job
    from sdwebui_api.postprocess.censor import Censor
    from sdwebui_api.postprocess.faces import FaceLibrary, RestoreFaces
    from sdwebui_api.postprocess.interrogate import Interrogator
    from sdwebui_api.postprocess.upscalers import UpscalerLibrary
    from sdwebui_api.scripting.host import ScriptHost


class Generator:
    """Runs requests, each in its caller's thread. Thread-safe: requests share nothing but the engine and caches."""

    def __init__(
        self,
        engine: Engine,
        catalog: Files,
        storage: LocalStorage,
        upscalers: UpscalerLibrary,
        scripts: ScriptHost,
        resolver: Resolver,
        censor: Censor | None = None,
        interrogator: Interrogator | None = None,
        faces: FaceLibrary | None = None,
        lend_network: LendsNetworks = lends_nothing,
    ) -> None:
        """`engine` lends the checkpoints, `lend_network` what scripts bring."""
        self._engine = engine
        self._catalog = catalog
        self._storage = storage
        self._upscalers = upscalers
        self._scripts = scripts
        self._resolver = resolver
        self._censor = censor
        self._interrogator = interrogator
        self._faces = faces
        self._lend_network = lend_network
        self.encodings = EncodingCache()

    def run(self, request: GenerationRequest, job: Job) -> GenerationResult:
        """Generate all pictures of `request`, or whatever its script makes of it.

        When the job is interrupted the pictures so far come back, the last one unfinished. Raises Cancelled when
        the job is cancelled, BadRequest, UnusableModel and OutOfMemory.
        """
        upscalers = self._upscalers.for_job(job, request.options)
        context = JobContext(
            self.pipeline, job, self._catalog, self._resolver, self._storage, upscalers, self._interrogator
        )
        request, _ = self._face_restorer(request, job, context.warn)
        with self._scripts.running(request, context):
            result = self._scripts.run(request, context)
        if self._censor is not None:
            for picture in result.images:  # again, for scripts may have changed or added some
                picture.image = self._censor(picture.image)
        result.info["warnings"] = [*result.info.get("warnings", ()), *context.warnings]
        return result

    def prepare(self, request: GenerationRequest, gone: Callable[[], bool]) -> None:
        """Have the weights of `request` at hand when it runs, as far as memory allows; stops when `gone()`."""
        self._engine.prefetch(request.checkpoint, request.vae, LoadSettings.of(request.options), gone)

    def pipeline(
        self, request: GenerationRequest, job: Job, call: PipelineCall = PLAIN, *, counts: bool = True
    ) -> GenerationResult:
        """The plain generation, always-on scripts included. `counts`: it is all that the job does."""
        run = Run(request, job, self.encodings, self._catalog, self._lend_network, infotext=dict(call.infotext))
        parts = self._scripts.parts(request, run) if call.parts is None else call.parts(request, run)
        run.hooks = HookChain(
            [*parts, *(Part(request.script.title if request.script else "", own) for own in call.hooks)], run
        )
        run.request = run.hooks.before_process(request)
        run.plan = plan_generation(run.request, self._catalog.styles.all())
        if not run.request.disable_extra_networks:
            run.plan = with_networks_of_options(run.plan, run.request.options, self._catalog)
        settings = LoadSettings.of(run.request.options)
        leases = ModelLeases(self._engine, self._catalog, job.set_text, settings)
        with leases as run.models, torch.inference_mode():
            run.model = run.borrow(run.request.checkpoint, run.request.vae)
            run.upscalers = self._upscalers.for_job(job, run.request.options)
            run.censor = self._censor or run.censor
            run.warnings += describe.unsupported_options(run.request.options)
            run.take(run.hooks.process(Draft(run.request, run.plan)))
            run.request, run.restore_faces = self._face_restorer(run.request, job, run.warn)
            return self._generate(run, counts)

    def _face_restorer(
        self, request: GenerationRequest, job: Job, warn: Callable[[str], None]
    ) -> tuple[GenerationRequest, RestoreFaces | None]:
        """What restores the faces of `request`, if it wants that. Where files are missing `warn` is told, and
        `request` goes on without: many clients always ask, and the infotext should say what happened."""
        if not request.restore_faces:
            return request, None
        name = request.options.face_restoration_model or "CodeFormer"
        try:
            if self._faces is None:
                raise BadRequest("this server restores no faces")
            return request, self._faces.for_job(job).restorer(name)
        except BadRequest as error:
            warn(f"restore_faces: the pictures are as they came, for {error.message}")
            return replace(request, restore_faces=False), None

    def _generate(self, run: Run, counts: bool) -> GenerationResult:
        request, job = run.request, run.job
        keeper = PictureKeeper(run, self._storage)
        keeper.keep_init_images()
        workflow = ImageToImage(run, request.init) if request.init else TextToImage(run, keeper)
        finisher = Finisher(run, keeper, workflow.prepared if isinstance(workflow, ImageToImage) else None)
        if counts:
            job.set_total(request.n_iter * workflow.passes)
        images: list[GeneratedImage] = []
        for index in range(request.n_iter):
            job.clear_skip()
            job.check()
            if job.interrupted:
                break
            batch = _batch(run, index)
            if not len(batch):
                break
            title = f"Batch {index + 1} out of {request.n_iter}" if request.n_iter > 1 else None
            decoded = workflow.sample(batch, title)
            job.next_part()
            with job.stages.timing("finish"):
                finished = finisher.batch(batch, decoded)
            job.pictures += sum(image.role == "sample" for image in finished)
            images += finished
        grid = finisher.grid(images)
        images = [grid, *images] if grid else images
        return run.hooks.postprocess(GenerationResult(images, describe.info(run, images)))


def _batch(run: Run, index: int) -> Batch:
    """The `index`-th batch as the scripts want it."""
    batch = run.plan.full_batch(index)
    batch = run.take(run.hooks.before_process_batch(Draft(run.request, run.plan, batch))) or batch
    run.use_networks(batch)
    batch = batch.without_networks()
    return run.take(run.hooks.process_batch(Draft(run.request, run.plan, batch))) or batch
