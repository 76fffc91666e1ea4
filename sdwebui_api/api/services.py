"""What the doors need of the house: made once by `app.build`, handed to `create_app`, faked in tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar
from urllib.parse import quote

from starlette.requests import Request
from starlette.types import ASGIApp, Scope

from sdwebui_api.api.call_log import log_job_time
from sdwebui_api.config.flags import Flags
from sdwebui_api.config.options import Options, OptionStore
from sdwebui_api.errors import NotFound, Unauthorized
from sdwebui_api.generation.request import GenerationRequest, GenerationResult
from sdwebui_api.generation.resolve import Resolver
from sdwebui_api.jobs.job import Job
from sdwebui_api.jobs.runner import JobRunner
from sdwebui_api.metrics import EngineStatistics, Metrics
from sdwebui_api.postprocess.faces import FaceLibrary
from sdwebui_api.postprocess.interrogate import Interrogator
from sdwebui_api.postprocess.upscalers import UpscalerLibrary
from sdwebui_api.queueing.call import queued_call
from sdwebui_api.scripting.hooks import LendsNetworks, lends_nothing

if TYPE_CHECKING:
    from sdwebui_api.catalog.checkpoints import CheckpointCatalog, CheckpointFile
    from sdwebui_api.catalog.controlnets import ControlModelCatalog
    from sdwebui_api.catalog.hashes import HashCache
    from sdwebui_api.catalog.networks import HypernetworkCatalog, LoraCatalog
    from sdwebui_api.catalog.styles import StyleCatalog
    from sdwebui_api.catalog.upscalers import UpscalerCatalog
    from sdwebui_api.catalog.vaes import VaeCatalog, VaeFile
    from sdwebui_api.control.service import ControlService
    from sdwebui_api.queueing.service import QueueService
    from sdwebui_api.scripting.host import ScriptHost
    from sdwebui_api.storage.links import LinkFetcher
    from sdwebui_api.storage.results import ResultStore

T = TypeVar("T")

StopKind = Literal["kill", "stop", "restart"]
VIEW = "services"
"""Where the state of a scope has the user's view."""


class Generates(Protocol):
    """Turns a resolved request into pictures, in the calling thread."""

    def run(self, request: GenerationRequest, job: Job) -> GenerationResult: ...

    def prepare(self, request: GenerationRequest, gone: Callable[[], bool]) -> None:
        """Gets ready what `run` will need, in the thread of the caller, until `gone()`."""
        ...


class PlansTraining(Protocol):
    """Looks up what create and train requests name. Raises BadRequest and NotFound naming the field."""

    def new_embedding(self, fields: Mapping[str, Any]) -> Any: ...

    def new_hypernetwork(self, fields: Mapping[str, Any]) -> Any: ...

    def training(
        self,
        kind: Literal["embedding", "hypernetwork"],
        fields: Mapping[str, Any],
        options: Options,
        checkpoint: CheckpointFile,
        vae: VaeFile | None,
        preview: GenerationRequest | None,
    ) -> Any: ...


class Trains(Protocol):
    """Makes and teaches embeddings and hypernetworks, in the calling thread; takes what `files` returns."""

    @property
    def files(self) -> PlansTraining: ...

    def create_embedding(self, new: Any, checkpoint: CheckpointFile, vae: VaeFile | None, job: Job) -> Path: ...

    def create_hypernetwork(self, new: Any, job: Job) -> Path: ...

    def train(self, request: Any, job: Job) -> Any:
        """Something with the `path` of what was taught."""
        ...


class EngineDoor(Protocol):
    """What a client may ask of the engine besides pictures. Every method may take seconds but `ready`."""

    def ready(self) -> bool:
        """A checkpoint has been loaded, or can be."""
        ...

    def memory(self) -> dict[str, Any]:
        """`{"ram": {...}, "cuda": {...}}` as GET /memory answers."""
        ...

    def statistics(self) -> EngineStatistics:
        """For GET /metrics; quick."""
        ...

    def embeddings(self, checkpoint: CheckpointFile | None) -> dict[str, Any]:
        """`{"loaded": {...}, "skipped": {...}}` for a checkpoint's text encoder."""
        ...

    def refresh_embeddings(self) -> None: ...

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        """(used, room) as the page shows it beside a prompt."""
        ...

    def warm(self, checkpoint: CheckpointFile) -> None:
        """Loads it, if it is not there already."""
        ...

    def unload(self) -> None:
        """Gives back the memory of every model that no job uses."""
        ...


class Catalog(Protocol):
    @property
    def checkpoints(self) -> CheckpointCatalog: ...

    @property
    def vaes(self) -> VaeCatalog: ...

    @property
    def styles(self) -> StyleCatalog: ...

    @property
    def loras(self) -> LoraCatalog: ...

    @property
    def hypernetworks(self) -> HypernetworkCatalog: ...

    @property
    def control_models(self) -> ControlModelCatalog: ...

    @property
    def upscalers(self) -> UpscalerCatalog: ...

    @property
    def models_dirs(self) -> Sequence[Path]: ...

    @property
    def hashes(self) -> HashCache | None: ...

    def refresh(self) -> None: ...


class Views(Protocol):
    """What each user of `--cluster` sees."""

    def known(self, user: str) -> Services | None:
        """Quick; None when it has to be made."""
        ...

    def __call__(self, user: str) -> Services:
        """Looks at the disk the first time. Raises NotStored when the user's folders cannot be made."""
        ...


@dataclass
class Services:
    """The objects behind the doors. Doors hold no state of their own."""

    flags: Flags
    options: OptionStore
    catalog: Catalog
    resolver: Resolver
    generator: Generates
    upscalers: UpscalerLibrary
    interrogator: Interrogator
    faces: FaceLibrary
    scripts: ScriptHost
    control: ControlService
    engine: EngineDoor
    runner: JobRunner
    executor: Executor
    """For what blocks: decoding, resolving, encoding, looking at the disk. Never for waiting."""
    preview_executor: Executor
    """For live previews alone, so that they do not wait behind large images."""
    sampler_rows: Sequence[Mapping[str, Any]]
    """The answer of GET /samplers."""
    schedule_rows: Sequence[Mapping[str, Any]]
    """The answer of GET /schedulers."""
    merge_folder: Path
    """Where merged checkpoints are written."""
    lend_network: LendsNetworks = lends_nothing
    """For networks of extensions, within jobs."""
    trainer: Trains | None = None
    """None: this server cannot train (tests)."""
    links: LinkFetcher | None = None
    """None: this server fetches no pictures by URL (tests)."""
    results: ResultStore | None = None
    """Where results by address are written. None: this server writes none (tests)."""
    queue: QueueService | None = None
    """None: requests are answered at once only."""
    companions: list[Callable[[ASGIApp], AbstractAsyncContextManager[Any]]] = field(default_factory=list)
    """What works beside the routes of the application that it is called with, while that is served; entered in order,
    once the queue runs."""
    metrics: Metrics = field(default_factory=Metrics)
    stop_server: Callable[[StopKind], None] | None = None
    """None: there is no server to stop (tests, and one user's view of it)."""
    views: Views | None = None
    """`--cluster`: what one user sees of all this. None: everybody sees the same."""

    def __post_init__(self) -> None:
        self.runner.observe(self.metrics.job_ended)
        if self.flags.time_log:
            self.runner.observe(log_job_time)

    async def off_loop(self, function: Callable[..., T], *args: Any) -> T:
        """Runs `function(*args)` in the executor and waits for it on the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, function, *args)

    def current_checkpoint(self) -> CheckpointFile | None:
        """The one a request without overrides gets."""
        name = self.options.snapshot().sd_model_checkpoint
        if name:
            try:
                return self.catalog.checkpoints.find(name)
            except NotFound:
                return self.catalog.checkpoints.default()
        return self.catalog.checkpoints.default()


def server_of(request: Request) -> Services:
    """The whole server, for what concerns no user."""
    services: Services = request.app.state.services
    return services


def services_of(request: Request) -> Services:
    """What the caller sees. Raises Unauthorized where that depends on who it is and nobody is known."""
    return services_in(request.scope, server_of(request))


def services_in(scope: Scope, server: Services) -> Services:
    """As `services_of`, for whoever has no request yet."""
    if server.views is None:
        return server
    view: Services | None = scope.get("state", {}).get(VIEW)
    if view is None:
        raise Unauthorized("Not authenticated")
    return view


def job_header(job: Job) -> dict[str, str]:
    """`X-Job-Id` of the answer. Clients choose ids freely; what a header cannot hold is percent-encoded."""
    return {"X-Job-Id": quote(job.id, safe="()[]:;,@!$&'*+=~/ ")}


def job_id_of(request: Request, wanted: str | None = None) -> str | None:
    """The id of the request's job: that of the queued request, else what the client `wanted`. None: any."""
    queued = queued_call(request.scope)
    return queued.request_id if queued else wanted or None


def user_of(request: Request) -> str | None:
    """The authenticated user; None when nobody is asked."""
    return getattr(request.state, "user", None)
