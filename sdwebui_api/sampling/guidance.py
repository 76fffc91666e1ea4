"""Classifier-free guidance (Ho & Salimans 2022) as A1111's `sd_samplers_cfg_denoiser.py` does it.

`GuidedDenoiser` is the `denoise` that samplers call: it looks up the conditioning of the step, evaluates the model
for prompts and negative prompts in as few calls as the options allow, and combines the results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from sdwebui_api.errors import BadRequest
from sdwebui_api.sampling.evaluation import Combined, Denoised, EvaluationHooks, EvaluationInputs, Guided, Moment
from sdwebui_api.sampling.model import GuidedModel
from sdwebui_api.sampling.rows import Row, Rows, fit_by_last_vector, merged, pad_by_prompt

Parts = Sequence[Sequence[tuple[int, float]]]
"""Per image, the (row, weight) of every AND part."""


class StepConditioning(Protocol):
    @property
    def cond(self) -> Tensor:
        """`[K, T, D]`, all parts of all images, image by image."""

    @property
    def parts(self) -> Parts: ...


class CondSchedule(Protocol):
    def at(self, step: int) -> StepConditioning:
        """The prompts' conditioning at a model evaluation (counted from 0)."""


class UncondSchedule(Protocol):
    def at(self, step: int) -> Tensor:
        """`[B, T, D]`, the negative prompts' at a model evaluation."""


class LabelSchedule(Protocol):
    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """`[K, V]` of all parts and `[B, V]` of the negative prompts at a model evaluation."""


class ControlSource(Protocol):
    """Control networks at work in one pass; what they are made of is the engine's business."""

    def at(self, now: Moment, rows: Sequence[Row]) -> Any:
        """What the evaluator gets as `control` for these rows of the model's input; None: nothing."""


@dataclass(frozen=True)
class Conditioning:
    """Everything that steers one batch.

    empty_prompt: `[1, 77, D]`, what `pad_cond_uncond` pads with.
    concat: `[B, C, h, w]` (or `[1, …]`) image conditioning of inpainting (C = 5) and edit (C = 4) models.
    edit_model: an InstructPix2Pix model, which has an image guidance scale of its own.
    control: control networks of this pass.
    labels: what models with a label embedding (SDXL) get besides the texts.
    """

    cond: CondSchedule
    uncond: UncondSchedule
    empty_prompt: Tensor | None = None
    concat: Tensor | None = None
    edit_model: bool = False
    control: ControlSource | None = None
    labels: LabelSchedule | None = None


@dataclass(frozen=True)
class GuidanceSettings:
    """How to combine. `cfg_scale` after the sampler's multiplier; the rest are A1111's options of these names."""

    cfg_scale: float = 7.0
    image_cfg_scale: float | None = None
    s_min_uncond: float = 0.0
    s_min_uncond_all: bool = False
    skip_early_cond: float = 0.0
    batch_cond_uncond: bool = True
    pad_cond_uncond: bool = False
    pad_cond_uncond_v0: bool = False
    live_preview_content: str = "Prompt"
    refiner_switch_by_sample_steps: bool = False
    needs_uncond: bool = False
    """The sampler asks for `GuidedDenoiser.unconditional`."""


BlendHook = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(current, init latent, mask, sigma or timestep) -> blended latent; soft inpainting replaces the plain blend."""


@dataclass(frozen=True)
class InpaintBlend:
    """Keeps the latent outside the mask at the start image.

    mask: `[h, w]` or `[1|B, 4, h, w]`, 1 where the start image stays; init_latent: `[B, 4, h, w]`.
    """

    mask: Tensor
    init_latent: Tensor
    hook: BlendHook | None = None

    def apply(self, latent: Tensor, noise_level: float = 0.0) -> Tensor:
        if self.hook is not None:
            return self.hook(latent, self.init_latent, self.mask, noise_level)
        return latent * (1 - self.mask) + self.init_latent * self.mask


@dataclass(frozen=True)
class RefinedModel:
    """What a refiner switches to: another model with its own conditioning."""

    model: GuidedModel
    conditioning: Conditioning


@dataclass(frozen=True)
class RefinerSwitch:
    """Change models part of the way. `load` is called once; `infotext` is what the switch adds to it."""

    switch_at: float
    load: Callable[[], RefinedModel]
    infotext: Mapping[str, Any] = field(default_factory=dict)


class SamplingStopped(Exception):
    """Raise from `on_step` to finish now with what there is (interrupt, skip)."""


@dataclass(frozen=True)
class StepReport:
    """After every model evaluation. `latent` `[B, 4, h, w]` is the picture so far, for previews.

    step: sampler steps begun before this evaluation's successor, in [0, steps); steps: as asked for.
    """

    step: int
    steps: int
    latent: Tensor


OnStep = Callable[[StepReport], None]


class GuidedDenoiser:
    """Callable `(x, noise level)` -> guided prediction, for one run of one sampler.

    After a run, `infotext` holds what guidance adds to the infotext and `last_latent` the latest picture of the
    prompts alone, which is what A1111 returns when interrupted.
    """

    def __init__(
        self,
        model: GuidedModel,
        conditioning: Conditioning,
        settings: GuidanceSettings,
        *,
        steps: int,
        total_steps: int,
        start: Tensor,
        blend: InpaintBlend | None = None,
        blend_before: bool = False,
        refiner: RefinerSwitch | None = None,
        on_step: OnStep | None = None,
        hooks: EvaluationHooks | None = None,
    ) -> None:
        self.infotext: dict[str, Any] = {}
        self.last_latent = start
        self.last_uncond: Tensor | None = None
        self._model = model
        self._conditioning = conditioning
        self._settings = settings
        self._steps = steps
        self._total_steps = total_steps
        self._blend = blend
        self._blend_before = blend_before
        self._refiner = refiner
        self._on_step = on_step
        self._hooks = hooks
        self._step = 0
        self._stop: SamplingStopped | None = None
        self._padded = {"Pad conds": False, "Pad conds v0": False}

    def __call__(self, x: Tensor, noise_level: Tensor) -> Tensor:
        if self._stop is not None:
            raise self._stop
        level = float(noise_level)
        latent, levels = x, x.new_full((x.shape[0],), level)
        self._switch_to_refiner(levels)
        if self._blend is not None and self._blend_before:
            x = self._blend.apply(x, level)
        step = self._conditioning.cond.at(self._step)
        cond, parts, uncond = step.cond, step.parts, self._conditioning.uncond.at(self._step)
        editing = self._is_editing(parts)
        skip_uncond = self._skips_uncond(level, editing) or self._cancels_uncond(parts, editing)
        outputs = self._evaluate(x, levels, cond, parts, uncond, editing, skip_uncond)
        guided = self._combine(outputs, parts, x.shape[0], editing, skip_uncond)
        if self._hooks is not None and not editing:
            scale = 1.0 if skip_uncond else self._settings.cfg_scale
            guided = self._hooks.combine(Combined(guided, outputs, parts, uncond, scale, self._now())).guided
        if self._blend is not None and not self._blend_before:
            guided = self._blend.apply(guided, level)
        self._preview(x, levels, outputs, guided, parts)
        if self._hooks is not None:
            guided = self._hooks.after_cfg(Guided(guided, self._now(), latent, level)).x
        self._step += 1
        return guided

    def unconditional(self) -> Tensor:
        """The negative prompts' part of the last prediction (CFG++)."""
        if self.last_uncond is None:
            raise RuntimeError("no prediction was made yet")
        return self.last_uncond

    def finish(self) -> dict[str, Any]:
        """The infotext entries of the run, padding last."""
        return self.infotext | {name: True for name, padded in self._padded.items() if padded}

    # -- which model, which conditioning ---------------------------------------------------------------------------

    def _switch_to_refiner(self, levels: Tensor) -> None:
        if self._settings.refiner_switch_by_sample_steps:
            self.infotext["Refiner switch by sampling steps"] = True
            progress = self._step / self._total_steps
        elif self._refiner is not None:
            progress = self._model.progress(levels)
        if self._refiner is None or progress < self._refiner.switch_at:
            return
        self.infotext.update(self._refiner.infotext)
        refined = self._refiner.load()
        # What controls the pass goes on doing so: A1111 exchanges the weights under the ControlNet extension's hooks.
        conditioning = replace(refined.conditioning, control=self._conditioning.control)
        self._model, self._conditioning, self._refiner = refined.model, conditioning, None

    def _is_editing(self, parts: Parts) -> bool:
        """At image scale 1 an edit model gives the same as plain guidance, which then allows AND."""
        scale = self._settings.image_cfg_scale
        editing = self._conditioning.edit_model and scale is not None and scale != 1.0
        if editing and any(len(image) != 1 for image in parts):
            raise BadRequest("AND needs an image CFG scale of 1 with an edit model", field="prompt")
        return editing

    def _skips_uncond(self, level: float, editing: bool) -> bool:
        """Whether this evaluation goes without the negative prompt (skip_early_cond, NGMS).

        Never for an edit model's two scales, which need all three predictions; A1111 fails there with skip_early_cond.
        """
        settings = self._settings
        if editing:
            return False
        if settings.skip_early_cond and self._step / self._total_steps <= settings.skip_early_cond:
            self.infotext["Skip Early CFG"] = settings.skip_early_cond
            return True
        turn = self._step % 2 == 1 or settings.s_min_uncond_all
        if not turn or settings.s_min_uncond <= 0 or level >= settings.s_min_uncond:
            return False
        self.infotext["NGMS"] = settings.s_min_uncond
        if settings.s_min_uncond_all:
            self.infotext["NGMS all steps"] = True
        return True

    def _cancels_uncond(self, parts: Parts, editing: bool) -> bool:
        """At scale 1 the negative prompt cancels out: half the work for LCM, Turbo and Lightning models.

        It is evaluated all the same for whoever looks at it: a CFG++ sampler, a script, a preview.
        """
        settings = self._settings
        looked_at = settings.needs_uncond or settings.live_preview_content == "Negative prompt"
        if settings.cfg_scale != 1.0 or editing or looked_at or self._hooks is not None:
            return False
        return all(len(image) == 1 and image[0][1] == 1.0 for image in parts)

    def _pad(self, cond: Tensor, uncond: Tensor) -> tuple[Tensor, Tensor]:
        """Make the token counts equal where an option wants that; only the last evaluation's padding is reported."""
        self._padded = {"Pad conds": False, "Pad conds v0": False}
        if cond.shape[1] == uncond.shape[1]:
            return cond, uncond
        if self._settings.pad_cond_uncond_v0:
            self._padded["Pad conds v0"] = True
            return cond, fit_by_last_vector(uncond, cond.shape[1])
        if self._settings.pad_cond_uncond and self._conditioning.empty_prompt is not None:
            self._padded["Pad conds"] = True
            length = max(cond.shape[1], uncond.shape[1])
            empty = self._conditioning.empty_prompt
            return pad_by_prompt(cond, empty, length), pad_by_prompt(uncond, empty, length)
        return cond, uncond

    # -- evaluation ------------------------------------------------------------------------------------------------

    def _evaluate(
        self,
        x: Tensor,
        levels: Tensor,
        cond: Tensor,
        parts: Parts,
        uncond: Tensor,
        editing: bool,
        skip_uncond: bool,
    ) -> Tensor:
        """Predictions of all parts, then (for an edit model: image-only, then) the unconditional ones.

        Without negative prompts the first part of each image stands for them.
        """
        numbers = [i for i, image in enumerate(parts) for _ in image]
        concat = self._conditioning.concat
        if concat is not None:
            concat = concat.expand(x.shape[0], -1, -1, -1)
        prompts = tuple(Row(i, True) for i in numbers)
        negatives = tuple(Row(i, False) for i in range(len(x)))
        labels = self._conditioning.labels
        label, label_negative = (None, None) if labels is None else labels.at(self._step)
        rows = [
            Rows(
                _picked(x, numbers),
                levels[:1].expand(len(numbers)),
                cond,
                None if concat is None else _picked(concat, numbers),
                prompts,
                label,
            ),
            Rows(x, levels, uncond, concat, negatives, label_negative),
        ]
        if editing and concat is not None:
            rows.append(Rows(x, levels, uncond, torch.zeros_like(concat), negatives, label_negative))
        if self._hooks is not None:
            rows = self._changed(rows, self._hooks)
        cond, uncond = self._pad(rows[0].context, rows[1].context)
        rows = [replace(row, context=uncond if index else cond) for index, row in enumerate(rows)]
        outputs = self._run(rows[:1] if skip_uncond else rows, x.shape[0])
        if skip_uncond:
            outputs = torch.cat([outputs, _picked(outputs, [image[0][0] for image in parts])])
        return self._hooks.cfg_denoised(Denoised(outputs, self._now())).x if self._hooks is not None else outputs

    def _changed(self, rows: list[Rows], hooks: EvaluationHooks) -> list[Rows]:
        """The model's inputs after the scripts had their say, in the same groups."""
        concat = None if rows[0].concat is None else torch.cat([row.concat for row in rows if row.concat is not None])
        inputs = EvaluationInputs(
            x=torch.cat([row.x for row in rows]),
            levels=torch.cat([row.levels for row in rows]),
            concat=concat,
            cond=rows[0].context,
            uncond=rows[1].context,
            at=self._now(),
        )
        inputs = hooks.cfg_denoiser(inputs)
        sizes = [len(row.x) for row in rows]
        concats = [None] * len(rows) if inputs.concat is None else inputs.concat.split(sizes)
        contexts = [inputs.cond, *[inputs.uncond] * (len(rows) - 1)]
        numbers, vectors = [row.numbers for row in rows], [row.vector for row in rows]
        changed = inputs.x.split(sizes), inputs.levels.split(sizes), contexts, concats
        pieces = zip(*changed, numbers, vectors, strict=True)
        return [Rows(*piece) for piece in pieces]

    def _now(self) -> Moment:
        return Moment(self._step, self._total_steps, self._steps)

    def _run(self, rows: list[Rows], batch_size: int) -> Tensor:
        if self._settings.batch_cond_uncond:
            runs = merged(rows)
        else:
            runs = [piece for run in rows for piece in run.split(batch_size)]
        return torch.cat([self._predict(run) for run in runs])

    def _predict(self, run: Rows) -> Tensor:
        control = self._conditioning.control
        adding = None if control is None else control.at(self._now(), run.numbers)
        return self._model.predict(run.x, run.levels, run.context, run.concat, adding, run.vector)

    def _combine(self, outputs: Tensor, parts: Parts, count: int, editing: bool, skip_uncond: bool) -> Tensor:
        scale = self._settings.cfg_scale
        if editing:
            prompt, image_only, unconditional = outputs.chunk(3)
            self.last_uncond = unconditional
            image_scale = self._settings.image_cfg_scale or 1.0
            return unconditional + scale * (prompt - image_only) + image_scale * (image_only - unconditional)
        if skip_uncond:
            scale = 1.0
        uncond = outputs[-count:]
        self.last_uncond = uncond.clone()
        guided = uncond.clone()
        for i, image in enumerate(parts):
            for row, weight in image:
                guided[i] += (outputs[row] - uncond[i]) * (weight * scale)
        return guided

    # -- reporting -------------------------------------------------------------------------------------------------

    def _preview(self, x: Tensor, levels: Tensor, outputs: Tensor, guided: Tensor, parts: Parts) -> None:
        prompts = torch.stack([outputs[image[0][0]] for image in parts])
        self.last_latent = self._model.to_image(x, prompts, levels)
        step = min(self._step * self._steps // max(self._total_steps, 1), max(self._steps - 1, 0))
        if self._on_step is None:
            return
        latent = self.last_latent
        if self._settings.live_preview_content == "Negative prompt":
            latent = self._model.to_image(x, self.unconditional(), levels)
        elif self._settings.live_preview_content == "Combined":
            latent = self._model.to_image(x, guided, levels)
        try:
            self._on_step(StepReport(step, self._steps, latent))
        except SamplingStopped as stop:
            # Takes effect at the next evaluation: a stop during the last one still gives the finished picture.
            self._stop = stop


def _picked(tensor: Tensor, numbers: Sequence[int]) -> Tensor:
    """Rows of a tensor, one by one: a tensor of indices would be sent to a GPU, which has to catch up for it first."""
    return torch.cat([tensor[number : number + 1] for number in numbers])
