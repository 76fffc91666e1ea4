"""Shipped scripts as modules, and a context whose pipeline draws grey pictures at once."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from PIL import Image

from sdwebui_api.config.options import Options
from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.plan import plan_generation
from sdwebui_api.generation.request import GeneratedImage, GenerationRequest, GenerationResult, InitImage
from sdwebui_api.generation.sampler_names import SamplingNames
from sdwebui_api.imaging.upscale import WEIGHT_FREE_UPSCALERS
from sdwebui_api.jobs.job import Job
from sdwebui_api.scripting.arguments import Arguments, read_arguments
from sdwebui_api.scripting.hooks import Draft, Hooks, Script

ROOT = Path(__file__).resolve().parents[2]


@cache
def module(path: str) -> ModuleType:
    """A script file, imported as the host does."""
    name = f"tests_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


@dataclass
class Named:
    name: str
    title: str = ""
    prompt: str = ""
    negative_prompt: str = ""

    @property
    def shorthash(self) -> str:
        return "12345678"

    @property
    def model_name(self) -> str:
        return self.name


class Listing:
    def __init__(self, *names: str) -> None:
        self._files = [Named(name, name) for name in names]

    def all(self) -> list[Named]:
        return self._files

    def rows(self) -> list[Named]:
        return self._files

    def find(self, text: str, field: str = "") -> Named:
        for file in self._files:
            if file.name == text:
                return file
        raise BadRequest(f"{text} not found", field=field)

    def resolve(self, value: str | None, checkpoint: Named, field: str = "") -> Named | None:
        return None if value in (None, "", "None", "Automatic") else self.find(value, field)


def request(kind: str = "txt2img", **changes: Any) -> GenerationRequest:
    init = InitImage((Image.new("RGB", (64, 64), "red"),)) if kind == "img2img" else None
    values = {"prompt": "a red apple", "seed": 7, "subseed": 3, "steps": 4, "width": 64, "height": 64, "init": init}
    return GenerationRequest(kind=kind, options=Options(), checkpoint=Named("one"), vae=None, **values | changes)


@dataclass
class FakeContext:
    """`interrupt_after`: generations after which the client interrupts; `fails`: those (from 0) that are impossible."""

    interrupt_after: int | None = None
    fails: tuple[int, ...] = ()
    job: Job = field(default_factory=lambda: Job("job", "txt2img"))
    requests: list[GenerationRequest] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)
    total: int = 0
    calls: int = 0

    files = SimpleNamespace(
        checkpoints=Listing("one", "two"),
        vaes=Listing("vae"),
        styles=Listing(),
        upscalers=Listing("None", "Lanczos", "Nearest"),
    )
    sampler_names = SamplingNames()
    upscaler_names = ("Latent", "None", "Lanczos", "Nearest")
    upscalers = WEIGHT_FREE_UPSCALERS

    def set_total(self, passes: int) -> None:
        self.total = passes

    def generate(
        self,
        request: GenerationRequest,
        *,
        hooks: Sequence[Hooks] = (),
        infotext: Mapping[str, Any] | None = None,
    ) -> GenerationResult:
        self.calls += 1
        self.titles.append(self.job.snapshot().job)
        self.requests.append(request)
        if self.calls - 1 in self.fails:
            raise BadRequest("impossible")
        plan = plan_generation(request, [])
        for part in hooks:
            if part.takes_part_in("process"):
                plan = part.process(Draft(request, plan), None).plan
        images = [
            GeneratedImage(
                Image.new("RGB", (request.width, request.height), (10 * self.calls, 0, 0)), f"{prompt} {seed}"
            )
            for prompt, seed in zip(plan.prompts, plan.seeds, strict=True)
        ]
        if self.interrupt_after == self.calls:
            self.job.interrupt()
        info = {
            "prompt": plan.prompts[0],
            "all_prompts": list(plan.prompts),
            "seed": plan.seeds[0],
            "all_seeds": list(plan.seeds),
            "infotexts": [image.infotext for image in images],
            "extra_generation_params": dict(infotext or {}),
            "warnings": [],
        }
        return GenerationResult(images, info)

    def infotext(
        self, request: GenerationRequest, *, extra: Mapping[str, Any] | None = None, prompt: str | None = None
    ) -> str:
        return f"{request.prompt} {request.options.randn_source} {dict(extra or {})}"

    def save(self, image: Image.Image, request: Any, infotext: str, *, grid: bool = False, suffix: str = "") -> str:
        self.saved.append(f"{'grid' if grid else 'sample'}{suffix}")
        return "path"

    def interrogate(self, image: Image.Image, model: str, options: Options) -> str:
        return f"{model} {image.getpixel((0, 0))[0]}"

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def arguments(script: Script, kind: Any, context: FakeContext, *given: Any) -> Arguments:
    return read_arguments(script.arguments_for(kind, context.files), list(given), "script_args")
