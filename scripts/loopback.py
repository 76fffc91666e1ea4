"""Loopback: img2img several times over, each time from the picture before."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from sdwebui_api.generation.request import GeneratedImage, InitImage
from sdwebui_api.imaging.color import apply_color_correction, setup_color_correction
from sdwebui_api.imaging.inpaint import ORIGINAL
from sdwebui_api.scripting.checks import number, one_of, whole
from sdwebui_api.scripting.hooks import (
    Argument,
    Arguments,
    GenerationRequest,
    GenerationResult,
    Hooks,
    PicturePlace,
    Running,
    Script,
    ScriptContext,
)
from sdwebui_api.scripting.results import Collected, row_of, start_of

MAX_LOOPS = 1000
CURVES: Mapping[str, Callable[[float], float]] = {
    "Aggressive": lambda progress: math.sin(progress * math.pi / 2),
    "Linear": lambda progress: progress,
    "Lazy": lambda progress: 1 - math.cos(progress * math.pi / 2),
}
"""How far the denoising strength has come, after which part of the loops."""
INTERROGATORS: Mapping[str, str | None] = {"None": None, "CLIP": "clip", "DeepBooru": "deepdanbooru"}


class Loopback(Script):
    title = "Loopback"
    kinds = ("img2img",)
    args = (
        Argument("loops", 4, "Loops", 1, 32, 1),
        Argument("final_denoising_strength", 0.5, "Final denoising strength", 0, 1, 0.01),
        Argument("denoising_curve", "Linear", "Denoising strength curve", choices=tuple(CURVES)),
        Argument(
            "append_interrogation",
            "None",
            "Append interrogated prompt at each iteration",
            choices=tuple(INTERROGATORS),
        ),
    )

    def run(self, request: GenerationRequest, args: Arguments, context: ScriptContext) -> GenerationResult:
        _check(args)
        context.set_total(args.loops * request.n_iter)
        first = start_of(request).images[0].convert("RGB")
        corrected = request.options.img2img_color_correction
        colours = _FirstColours(setup_color_correction(first)) if corrected else None
        return _Loops(request, args, context, colours).run()


@dataclass
class _Loops:
    request: GenerationRequest
    args: Arguments
    context: ScriptContext
    colours: _FirstColours | None
    collected: Collected = field(default_factory=Collected)
    history: list[GeneratedImage] = field(default_factory=list)

    def run(self) -> GenerationResult:
        batches, seed = self.request.n_iter, self.request.seed
        for batch in range(batches):
            last = None
            for loop in range(self.args.loops):
                title = f"Iteration {loop + 1}/{self.args.loops}, batch {batch + 1}/{batches}"
                picture = self._once(self._request(loop, seed, last.image if last else None), title)
                if picture is None:
                    break
                last = picture
                seed += 1
                if batches == 1:
                    self.history.append(picture)
            if batches > 1 and last is not None and not self.context.job.should_stop:
                self.history.append(last)
            if self.context.job.interrupted:
                break
        return self._answer()

    def _request(self, loop: int, seed: int, last: Image.Image | None) -> GenerationRequest:
        base = replace(
            self.request,
            seed=seed,
            batch_size=1,
            n_iter=1,
            do_not_save_grid=True,
            denoising_strength=self._strength(loop),
            options=self.request.options.with_values({"img2img_color_correction": False}),
        )
        base = replace(base, prompt=self._prompt(start_of(base).images[0] if last is None else last))
        init = replace(start_of(base), posterior_seed=self.collected.last_seed)
        return replace(base, init=init if last is None else _starting_from(init, last))

    def _prompt(self, image: Image.Image) -> str:
        """The request's prompt and, where asked for, what `image` shows."""
        model = INTERROGATORS[self.args.append_interrogation]
        if model is None:
            return self.request.prompt
        found = self.context.interrogate(image.convert("RGB"), model, self.request.options)
        return f"{self.request.prompt}, {found}" if self.request.prompt else found

    def _strength(self, loop: int) -> float:
        """Of the loop counted from 0. The one after the last is past the end: A1111 answers it as the strength used."""
        start = self.request.denoising_strength or 0.0
        if self.args.loops == 1:
            return start
        progress = CURVES[self.args.denoising_curve](loop / (self.args.loops - 1))
        return start + (self.args.final_denoising_strength - start) * progress

    def _once(self, request: GenerationRequest, title: str) -> GeneratedImage | None:
        """One picture; None when the loop ends here. What earlier loops said of theirs, it says too (A1111)."""
        self.context.job.start_batch(title, request.steps)
        done = self.collected.results
        infotext = {
            **(done[-1].info["extra_generation_params"] if done else {}),
            "Final denoising strength": self.args.final_denoising_strength,
            "Denoising curve": self.args.denoising_curve,
        }
        hooks = [self.colours] if self.colours else []
        result = self.collected.add(self.context.generate(request, hooks=hooks, infotext=infotext))
        found = [image for image in result.images if image.role == "sample"]
        return found[0] if found and not self.context.job.should_stop else None

    def _answer(self) -> GenerationResult:
        options, infotext = self.request.options, self.collected.infotext
        images = list(self.history)
        if len(self.history) > 1:
            grid = row_of([image.image for image in self.history], infotext)
            if options.grid_save and not self.request.do_not_save_grid:
                grid.saved_path = self.context.save(grid.image, self.request, infotext, grid=True)
            if options.return_grid:
                images.insert(0, grid)
        if not images:
            images = self.collected.results[-1].images  # stopped in the first loop: the unfinished picture
        done = (len(self.collected.results) - 1) % self.args.loops + 1
        return self.collected.answer(images, denoising_strength=self._strength(done))


@dataclass(frozen=True)
class _FirstColours(Hooks):
    """Option `img2img_color_correction`: every loop is matched to the first start image, not to the last result."""

    target: np.ndarray

    def postprocess_image(self, image: Image.Image, place: PicturePlace, run: Running) -> Image.Image:
        return apply_color_correction(self.target, image)


def _starting_from(init: InitImage, image: Image.Image) -> InitImage:
    """`init` with another picture; what was masked then is there already, so it is not filled again."""
    mask = replace(init.mask, fill=ORIGINAL) if init.mask else None
    return replace(init, images=(image,), mask=mask)


def _check(args: Arguments) -> None:
    whole(args.loops, 1, MAX_LOOPS, "Loops")
    number(args.final_denoising_strength, 0, 1, "Final denoising strength")
    one_of(args.denoising_curve, CURVES, "Denoising strength curve")
    one_of(args.append_interrogation, INTERROGATORS, "Append interrogated prompt at each iteration")
