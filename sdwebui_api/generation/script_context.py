"""What a script's `run` works with: the pipeline within its own job, and what goes around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sdwebui_api.config.options import Options
from sdwebui_api.errors import Unavailable
from sdwebui_api.generation import describe
from sdwebui_api.generation.plan import plan_generation
from sdwebui_api.generation.request import GenerationRequest, GenerationResult
from sdwebui_api.generation.resolve import Resolver, SamplerNames
from sdwebui_api.generation.saving import save_image
from sdwebui_api.imaging.upscale import Upscaler
from sdwebui_api.jobs.job import Job
from sdwebui_api.postprocess.interrogate import Interrogator
from sdwebui_api.scripting.chain import Part
from sdwebui_api.scripting.hooks import Files, Hooks, Running
from sdwebui_api.storage.local import LocalStorage

if TYPE_CHECKING:
    from PIL import Image


PartsOf = Callable[[GenerationRequest, Running], list[Part]]


@dataclass(frozen=True)
class PipelineCall:
    """How a script calls the pipeline: hooks of its own, the first infotext entries, and who else takes part.

    parts: the always-on scripts of this run; None: those of the request.
    """

    hooks: Sequence[Hooks] = ()
    infotext: Mapping[str, Any] = field(default_factory=dict)
    parts: PartsOf | None = None


PLAIN = PipelineCall()


class Pipeline(Protocol):
    """`Generator.pipeline`."""

    def __call__(
        self, request: GenerationRequest, job: Job, call: PipelineCall = ..., *, counts: bool = ...
    ) -> GenerationResult: ...


class JobContext:
    """The `ScriptContext` of one job."""

    def __init__(
        self,
        pipeline: Pipeline,
        job: Job,
        files: Files,
        resolver: Resolver,
        storage: LocalStorage,
        upscalers: Mapping[str, Upscaler],
        interrogator: Interrogator | None = None,
    ) -> None:
        self.job = job
        self.files = files
        self.upscalers = upscalers
        self.warnings: list[str] = []
        self._pipeline = pipeline
        self._resolver = resolver
        self._storage = storage
        self._interrogator = interrogator
        self._counts = True

    @property
    def sampler_names(self) -> SamplerNames:
        return self._resolver.sampler_names

    @property
    def upscaler_names(self) -> Sequence[str]:
        return self._resolver.upscaler_names

    def interrogate(self, image: Image.Image, model: str, options: Options) -> str:
        if self._interrogator is None:
            raise Unavailable("this server does not interrogate")
        return self._interrogator.describe(image, model, options, self.job)

    def set_total(self, passes: int) -> None:
        self._counts = False
        self.job.set_total(passes)

    def generate(
        self,
        request: GenerationRequest,
        *,
        hooks: Sequence[Hooks] = (),
        infotext: Mapping[str, Any] | None = None,
        parts: PartsOf | None = None,
    ) -> GenerationResult:
        call = PipelineCall(hooks, infotext or {}, parts)
        return self._pipeline(request, self.job, call, counts=self._counts)

    def infotext(
        self, request: GenerationRequest, *, extra: Mapping[str, Any] | None = None, prompt: str | None = None
    ) -> str:
        plan = plan_generation(request, self.files.styles.all())
        return describe.infotext_without_run(request, plan, dict(extra or {}), self.job.user, prompt)

    def save(
        self, image: Image.Image, request: GenerationRequest, infotext: str, *, grid: bool = False, suffix: str = ""
    ) -> str:
        plan = plan_generation(request, self.files.styles.all())
        facts = describe.naming_facts_of(request, plan, 0, self.job)
        saved = save_image(
            self._storage, image, facts, request.options, purpose=request.kind, infotext=infotext, grid=grid,
            suffix=suffix,
        )  # fmt: skip
        return str(saved.path)

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
