"""The hooks of one request, called one after the other; what one of them breaks stays its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdwebui_api.errors import SdWebUIError
from sdwebui_api.generation.plan import Batch
from sdwebui_api.generation.request import GenerationRequest, GenerationResult
from sdwebui_api.sampling.evaluation import Combined, Denoised, EvaluationHooks, EvaluationInputs, Guided
from sdwebui_api.sampling.guidance import BlendHook, SamplingStopped
from sdwebui_api.scripting.hooks import (
    Blend,
    Draft,
    Hooks,
    MaskOverlay,
    PictureFile,
    PicturePlace,
    Running,
    Sampled,
    SamplingStart,
)

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

log = logging.getLogger(__name__)

_PER_EVALUATION = ("cfg_denoiser", "cfg_denoised", "combine", "after_cfg")


@dataclass(frozen=True)
class Part:
    """One script's hooks in this request, and the name under which its errors are reported."""

    title: str
    hooks: Hooks


class HookChain:
    """Calls every part in order; without parts every method gives back what it got."""

    def __init__(self, parts: Sequence[Part], run: Running) -> None:
        self._run = run
        self._parts = tuple(parts)

    def has(self, *names: str) -> bool:
        """Whether any script takes part in one of these hooks now; A1111's may join while they run."""
        return any(part.hooks.takes_part_in(name) for part in self._parts for name in names)

    def before_process(self, request: GenerationRequest) -> GenerationRequest:
        return self._pass("before_process", request)

    def process(self, draft: Draft) -> Draft:
        return self._pass("process", draft)

    def before_process_batch(self, draft: Draft) -> Draft:
        return self._pass("before_process_batch", draft)

    def process_batch(self, draft: Draft) -> Draft:
        return self._pass("process_batch", draft)

    def before_hires(self, draft: Draft) -> Draft:
        return self._pass("before_hires", draft)

    def before_sampling(self, start: SamplingStart) -> SamplingStart:
        return self._pass("before_sampling", start)

    def cfg_denoiser(self, inputs: EvaluationInputs) -> EvaluationInputs:
        return self._pass("cfg_denoiser", inputs)

    def cfg_denoised(self, denoised: Denoised) -> Denoised:
        return self._pass("cfg_denoised", denoised)

    def combine(self, combined: Combined) -> Combined:
        return self._pass("combine", combined)

    def after_cfg(self, guided: Guided) -> Guided:
        return self._pass("after_cfg", guided)

    def blend(self, blend: Blend) -> Blend:
        return self._pass("blend", blend)

    def post_sample(self, sampled: Sampled) -> Sampled:
        return self._pass("post_sample", sampled)

    def postprocess_batch(self, pictures: list[Tensor], batch: Batch) -> list[Tensor]:
        return self._pass("postprocess_batch", pictures, batch)

    def postprocess_image(self, image: Image.Image, place: PicturePlace) -> Image.Image:
        return self._pass("postprocess_image", image, place)

    def postprocess_maskoverlay(self, overlay: MaskOverlay, place: PicturePlace) -> MaskOverlay:
        return self._pass("postprocess_maskoverlay", overlay, place)

    def postprocess_image_after_composite(self, image: Image.Image, place: PicturePlace) -> Image.Image:
        return self._pass("postprocess_image_after_composite", image, place)

    def before_save(self, picture: PictureFile) -> PictureFile:
        return self._pass("before_save", picture)

    def saved(self, picture: PictureFile) -> None:
        self._pass("saved", picture)

    def postprocess(self, result: GenerationResult) -> GenerationResult:
        return self._pass("postprocess", result)

    # -- for sampling ----------------------------------------------------------------------------------------------

    @property
    def per_evaluation(self) -> EvaluationHooks | None:
        """These hooks as guidance calls them; None when no script looks at evaluations."""
        return self if self.has(*_PER_EVALUATION) else None

    @property
    def blending(self) -> BlendHook | None:
        """The blend of every evaluation; None when the plain one will do."""
        if not self.has("blend"):
            return None

        def blended(current: Tensor, init_latent: Tensor, keep: Tensor, level: float) -> Tensor:
            return self.blended(current, init_latent, keep, level)

        return blended

    def blended(self, current: Tensor, init_latent: Tensor, keep: Tensor, level: float | None = None) -> Tensor:
        """`current` inside the mask and the start image outside of it. Without `level`: the final blend."""
        plain = current * (1 - keep) + init_latent * keep
        return self.blend(Blend(plain, current, init_latent, keep, level)).blended

    # -- calling ---------------------------------------------------------------------------------------------------

    def _pass(self, name: str, value: Any, *more: Any) -> Any:
        """`value` through every part that overrides `name`. Errors of ours and the end of a job pass through."""
        for part in self._parts:
            if not part.hooks.takes_part_in(name):
                continue
            try:
                value = getattr(part.hooks, name)(value, *more, self._run)
            except (SdWebUIError, SamplingStopped):
                raise
            except Exception as error:
                report_error(self._run.warnings, part.title, name, error)
        return value


def report_error(warnings: list[str], title: str, place: str, error: Exception) -> None:
    """An error of a script that the request survives: in the log every time, in `warnings` once."""
    log.error("script %s failed in %s", title, place, exc_info=error)
    line = f"script {title!r} failed in {place}: {type(error).__name__}: {error}"[:500]
    if line not in warnings:
        warnings.append(line)
