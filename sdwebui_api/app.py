"""The composition root: makes every object once, wires them, serves. Nothing else in the house is global."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI

from sdwebui_api import serving
from sdwebui_api.api.factory import create_app
from sdwebui_api.api.queue import build_queue
from sdwebui_api.api.services import Catalog, Services, StopKind
from sdwebui_api.catalog.checkpoints import CheckpointFile
from sdwebui_api.catalog.upscalers import HiresUpscalers
from sdwebui_api.catalog.whole import build_catalog, face_restorers
from sdwebui_api.cluster import UserViews
from sdwebui_api.config.flags import Flags
from sdwebui_api.config.option_sections import PLACES, names_in_sections
from sdwebui_api.config.options import OptionStore
from sdwebui_api.config.paths import Paths
from sdwebui_api.errors import SdWebUIError
from sdwebui_api.generation.resolve import Resolver
from sdwebui_api.jobs.runner import JobRunner
from sdwebui_api.metrics import EngineStatistics
from sdwebui_api.postprocess.censor import Censor
from sdwebui_api.postprocess.faces import FaceLibrary
from sdwebui_api.postprocess.interrogate import Interrogator
from sdwebui_api.postprocess.upscalers import UpscalerLibrary
from sdwebui_api.queueing.settings import queue_is_on
from sdwebui_api.queueing.staff import Staff
from sdwebui_api.staffing import staff_of

if TYPE_CHECKING:
    from sdwebui_api.engine.engine import Engine
    from sdwebui_api.generation.generator import Generator
    from sdwebui_api.generation.training import Trainer
    from sdwebui_api.prompting.encoding import EncodingCache
    from sdwebui_api.queueing.service import QueueService
    from sdwebui_api.scripting.host import ScriptHost
    from sdwebui_api.storage.local import LocalStorage
    from sdwebui_api.storage.results import ResultStore

log = logging.getLogger(__name__)

HAND_BACK_SECONDS = 30.0
"""Beyond the drain: for writing pictures, storing the results of queued requests, and giving the rest back."""
DOOR_THREADS = 4
"""Decode, resolve and encode; more would only take turns on the interpreter's lock."""


class EngineForDoors:
    """The engine as the API sees it: plain dictionaries, no tensors."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        options: OptionStore,
        encodings: EncodingCache,
        *,
        loads_at_start: bool,
    ) -> None:
        self._engine = engine
        self._encodings = encodings
        self._catalog = catalog
        self._options = options
        self._loads_at_start = loads_at_start

    def ready(self) -> bool:
        return self._engine.ready or not self._loads_at_start

    def memory(self) -> dict[str, Any]:
        return self._engine.memory()

    def statistics(self) -> EngineStatistics:
        encodings, cuda = self._encodings, self._engine.memory()["cuda"]
        gpu = {"used": cuda["system"]["used"], "total": cuda["system"]["total"]} if "system" in cuda else {}
        gpu |= {kind: cuda[kind]["current"] for kind in ("allocated", "reserved") if kind in cuda}
        return EngineStatistics(
            step_batches=dict(self._engine.batcher.statistics.sizes),
            caches={"weights": self._engine.cache_use, "text": (encodings.hits, encodings.misses)},
            weights_bytes=sum(part.size for part in self._engine.loaded()),
            gpu_bytes=gpu,
        )

    def embeddings(self, checkpoint: CheckpointFile | None) -> dict[str, Any]:
        database = self._engine.embeddings(checkpoint)
        return {
            "loaded": {name: _embedding_row(found) for name, found in database.loaded.items()},
            "skipped": {name: _embedding_row(found) for name, found in database.skipped.items()},
        }

    def refresh_embeddings(self) -> None:
        self._engine.embeddings()

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        if not prompt:
            return 0, 75  # without the tokenizer, which takes a second to load: the page begins with empty prompts
        from sdwebui_api.prompting.counting import count_tokens

        return count_tokens(prompt, self._engine.tokenizer)

    def warm(self, checkpoint: CheckpointFile) -> None:
        """With the VAE that a request without overrides would take; the hash is what listings wait for."""
        vae = self._catalog.vaes.resolve(self._options.snapshot().sd_vae, checkpoint)
        self._engine.warm(checkpoint, vae)
        _ = checkpoint.sha256

    def unload(self) -> None:
        self._engine.unload()


def _embedding_row(embedding: Any) -> dict[str, Any]:
    return {
        "step": embedding.step,
        "sd_checkpoint": embedding.checkpoint,
        "sd_checkpoint_name": embedding.checkpoint_name,
        "shape": embedding.shape,
        "vectors": embedding.vectors,
    }


def build(flags: Flags) -> Services:
    """Every object of the server. Imports torch; reads folders and settings, but no weights (the censor's excepted).

    Raises NotFound and UnusableModel when `--enable-nsfw-censor` has no classifier.
    """
    from sdwebui_api.control.annotators import AnnotatorFolders
    from sdwebui_api.control.options import CONTROL_OPTIONS
    from sdwebui_api.control.service import ControlService
    from sdwebui_api.engine.engine import Engine
    from sdwebui_api.generation.infotext_parse import parse_generation_parameters
    from sdwebui_api.generation.sampler_names import SamplingNames, sampler_rows, schedule_rows
    from sdwebui_api.scripting.build import build_host
    from sdwebui_api.scripting.controlnet import ControlNetScript
    from sdwebui_api.storage.links import link_fetcher
    from sdwebui_api.storage.local import LocalStorage
    from sdwebui_api.storage.results import ResultStore
    from sdwebui_api.storage.roots import save_roots

    paths = Paths.from_flags(flags)
    options = _option_store(flags, paths)
    options.extend(CONTROL_OPTIONS)
    catalog = build_catalog(flags, paths)
    engine = Engine(flags, paths)
    upscalers = UpscalerLibrary(engine, catalog.upscalers)
    interrogator = Interrogator(engine, paths.interrogate_dir)
    faces = FaceLibrary(engine, face_restorers(flags, paths))
    scripts = build_host(flags, paths, options, catalog, parse_generation_parameters)
    annotators = AnnotatorFolders(paths, str(engine.plan.device), engine)
    scripts.add(ControlNetScript(annotators.context_for))
    resolver = Resolver(catalog, SamplingNames(lenient=flags.lenient), HiresUpscalers(catalog.upscalers))
    storage = LocalStorage(paths.data_dir)
    results = ResultStore(save_roots(flags, paths.data_dir))
    # As many jobs side by side as may share a forward pass (two even when none do: loading and decoding overlap).
    runner = JobRunner(flags.max_queue, max(2, engine.batcher.largest_group), fair=flags.cluster)
    censor = Censor(engine, paths.nsfw_dir) if flags.enable_nsfw_censor else None
    shared = _Shared(engine, upscalers, interrogator, scripts, censor, runner, not flags.skip_load_model_at_start)
    generator = shared.generator(engine, catalog, storage, resolver, faces)
    services = Services(
        flags=flags,
        options=options,
        catalog=catalog,
        resolver=resolver,
        generator=generator,
        upscalers=upscalers,
        interrogator=interrogator,
        faces=faces,
        scripts=scripts,
        control=ControlService(catalog.control_models, annotators),
        engine=shared.engine_for_doors(engine, catalog, options, generator),
        runner=runner,
        executor=ThreadPoolExecutor(DOOR_THREADS, "door"),
        preview_executor=ThreadPoolExecutor(1, "preview"),
        sampler_rows=sampler_rows(),
        schedule_rows=schedule_rows(),
        merge_folder=paths.checkpoint_dirs[0],
        lend_network=engine.auxiliary,
        trainer=shared.trainer(
            engine, paths, storage, lambda lender: shared.generator(lender, catalog, storage, resolver, faces)
        ),
        links=link_fetcher(flags, results.fetchers()),
        results=results,
        queue=build_queue(flags, paths.data_dir) if queue_is_on(flags) else None,
    )
    if flags.cluster:
        services.views = UserViews(services, lambda view, own: shared.equip(view, own, generator))
    return services


@dataclass(frozen=True)
class _Shared:
    """What draws and trains for all users, each with files and settings of their own."""

    engine: Engine
    upscalers: UpscalerLibrary
    interrogator: Interrogator
    scripts: ScriptHost
    censor: Censor | None
    runner: JobRunner
    loads_at_start: bool
    training_turn: threading.Lock = field(default_factory=threading.Lock)

    def generator(
        self, lender: Any, catalog: Catalog, storage: LocalStorage, resolver: Resolver, faces: FaceLibrary
    ) -> Generator:
        """`lender`: an engine, or what lends one model of it (previews of trainings)."""
        from sdwebui_api.generation.generator import Generator

        return Generator(
            lender, catalog, storage, self.upscalers, self.scripts, resolver, self.censor, self.interrogator, faces,
            self.engine.auxiliary,
        )  # fmt: skip

    def trainer(
        self, engine: Engine, paths: Paths, storage: LocalStorage, generator_on: Callable[[Any], Generator]
    ) -> Trainer:
        from sdwebui_api.generation.training import Trainer
        from sdwebui_api.generation.training_request import TrainingFiles

        files = TrainingFiles(paths, storage)
        return Trainer(engine, files, generator_on, lambda: self.runner.draining, turn=self.training_turn)

    def engine_for_doors(
        self, engine: Engine, catalog: Catalog, options: OptionStore, generator: Generator
    ) -> EngineForDoors:
        return EngineForDoors(engine, catalog, options, generator.encodings, loads_at_start=self.loads_at_start)

    def equip(self, view: Services, paths: Paths, generator: Generator) -> None:
        """What of one user's services runs networks. Encoded prompts are remembered for all, in `generator`."""
        from sdwebui_api.storage.local import LocalStorage

        engine, storage = self.engine.with_embeddings([paths.embeddings_dir]), LocalStorage(paths.data_dir)

        def generator_on(lender: Any) -> Generator:
            made = self.generator(lender, view.catalog, storage, view.resolver, view.faces)
            made.encodings = generator.encodings
            return made

        view.generator = generator_on(engine)
        view.engine = self.engine_for_doors(engine, view.catalog, view.options, generator)
        view.trainer = self.trainer(engine, paths.with_own_networks(), storage, generator_on)


def _option_store(flags: Flags, paths: Paths) -> OptionStore:
    frozen = set(_listed(flags.freeze_specific_settings))
    frozen |= names_in_sections(_listed(flags.freeze_settings_in_sections))
    if flags.hide_ui_dir_config:
        frozen |= set(PLACES)
    return OptionStore(paths.options_file, frozen=flags.freeze_settings, frozen_names=frozen)


def _listed(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def warm_in_background(services: Services) -> threading.Thread:
    """Loads the current checkpoint while the port is open already; `/health/ready` tells when it is there."""

    def warm() -> None:
        checkpoint = services.current_checkpoint()
        if checkpoint is None:
            log.warning("there is no checkpoint yet: put one into the folder Stable-diffusion and refresh")
            return
        try:
            services.engine.warm(checkpoint)
        except SdWebUIError as error:
            log.error("%s cannot be loaded: %s", checkpoint.name, error.message)
        except Exception:
            log.exception("%s cannot be loaded", checkpoint.name)

    thread = threading.Thread(target=warm, name="warm", daemon=True)
    thread.start()
    return thread


class Server(serving.Server):
    """Finishes the admitted jobs before it closes its doors.

    On SIGTERM (or the first Ctrl-C) new requests for pictures get 503 while control requests are still answered;
    nothing more is taken from the queue. A second signal ends everything at once.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        runner: JobRunner,
        on_open: Callable[[], None],
        on_closing: Callable[[], None] = lambda: None,
        *,
        staff: Staff | None = None,
        results: ResultStore | None = None,
        drain_seconds: float = 120.0,
    ) -> None:
        super().__init__(config, on_open, on_closing)
        self._runner = runner
        self._staff = staff
        self._results = results
        self._drain_seconds = drain_seconds
        self._stopping = False
        self.restart = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._stopping:
            self.force_exit = True
            super().handle_exit(sig, frame)
            return
        self.stop()

    def stop(self, *, restart: bool = False) -> None:
        """Admits nothing more, waits for the jobs in another thread, then closes."""
        self._stopping = True
        self.restart = restart
        threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        log.info("stopping: waiting for %d jobs", len(self._runner.live_jobs()))
        if self._staff is not None:
            self._staff.stop()
        self._runner.drain(self._drain_seconds)
        if self._results is not None:
            self._results.settle(HAND_BACK_SECONDS)
        if self._staff is not None:
            self._staff.wait(HAND_BACK_SECONDS)
        self.should_exit = True


def serve(flags: Flags) -> int:
    """Runs until stopped. 0 after an orderly stop, 1 when it could not start."""
    try:
        services = build(flags)
        app = create_app(services)
        close_page = _add_page(app, services) if not flags.nowebui else lambda: None
        staff = _staff(services)  # last: it loads the checkpoint in a thread, which would slow the page's imports down
    except SdWebUIError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    config = serving.server_config(app, flags)
    queue = services.queue
    server = Server(
        config,
        services.runner,
        lambda: _opened(flags, server),
        lambda: _let_go(queue, close_page),
        staff=staff,
        results=services.results,
        drain_seconds=flags.drain_seconds,
    )
    services.stop_server = lambda kind: _stop(server, kind)
    server.run()
    services.executor.shutdown(wait=False)
    services.preview_executor.shutdown(wait=False)
    if services.results is not None:
        services.results.close()
    if server.restart:
        os.environ[serving.RESTARTED] = "1"
        os.execv(sys.executable, sys.orig_argv)
    return 0 if server.started else 1


def _add_page(app: FastAPI, services: Services) -> Callable[[], None]:
    """What lets go of its browsers."""
    from sdwebui_api.webui.page import mount_page  # gradio takes seconds, which --nowebui spares

    return mount_page(app, services)


def _let_go(queue: QueueService | None, close_page: Callable[[], None]) -> None:
    """Whoever waits for a long time is sent away."""
    if queue is not None:
        queue.closing.set()
    close_page()


def _opened(flags: Flags, server: Server) -> None:
    serving.announce(flags, server, f"{'' if flags.nowebui else 'page: /, '}API documentation: /docs")
    serving.open_browser(flags, server)


def _staff(services: Services) -> Staff | None:
    """The worker beside the doors, when there is a queue; starts loading the first checkpoint. Raises as `staff_of`."""
    loading = warm_in_background(services).is_alive if not services.flags.skip_load_model_at_start else lambda: False
    if services.queue is None:
        return None
    staff = staff_of(services, services.queue, loading)
    services.companions.append(staff.beside)
    return staff


def _stop(server: Server, kind: StopKind) -> None:
    if kind == "kill":
        # A moment for the answer to leave, then nothing is waited for.
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
    else:
        server.stop(restart=kind == "restart")
