"""One run of one sampler: from noise (txt2img), or from a latent (img2img and the hires pass).

Ties together schedule, sampler, guidance and noise, and gives back what the run adds to the infotext, in the order in
which A1111 adds it (`sd_samplers_kdiffusion.py`, `sd_samplers_timesteps.py`, `sd_samplers_common.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sdwebui_api.sampling.brownian import BrownianNoise
from sdwebui_api.sampling.dpm_solver import Span
from sdwebui_api.sampling.evaluation import EvaluationHooks
from sdwebui_api.sampling.guidance import (
    Conditioning,
    GuidanceSettings,
    GuidedDenoiser,
    InpaintBlend,
    OnStep,
    RefinedModel,
    RefinerSwitch,
    SamplingStopped,
)
from sdwebui_api.sampling.model import Evaluator, GuidedModel, SigmaModel, wrap_model
from sdwebui_api.sampling.noise import ImageNoise, NoiseFunction
from sdwebui_api.sampling.samplers import Sampler
from sdwebui_api.sampling.schedules import AUTOMATIC, SCHEDULES, Schedule, ScheduleContext
from sdwebui_api.sampling.settings import SamplingSettings
from sdwebui_api.sampling.sigma_table import ZERO_TERMINAL_SNR, effective_alphas
from sdwebui_api.sampling.timestep_samplers import ddim_timesteps

__all__ = [
    "Conditioning",
    "InpaintBlend",
    "OnStep",
    "RefinedModel",
    "RefinerSwitch",
    "SamplingOutcome",
    "SamplingSettings",
    "SamplingStopped",
    "refined_model",
    "sample_from_latent",
    "sample_from_noise",
]

_ETA_DEFAULTS = {"sigma": ("Eta", 1.0), "lcm": ("Eta", 1.0), "timestep": ("Eta DDIM", 0.0)}


@dataclass(frozen=True)
class SamplingOutcome:
    """latent `[B, 4, h, w]` float32; infotext entries in A1111's order; stopped: an `on_step` ended it early."""

    latent: Tensor
    infotext: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False


@dataclass(frozen=True)
class Extras:
    """The optional company of a run."""

    blend: InpaintBlend | None = None
    refiner: RefinerSwitch | None = None
    on_step: OnStep | None = None
    hooks: EvaluationHooks | None = None


def sample_from_noise(
    settings: SamplingSettings,
    evaluator: Evaluator,
    conditioning: Conditioning,
    noise: ImageNoise,
    *,
    start: Tensor | None = None,
    refiner: RefinerSwitch | None = None,
    on_step: OnStep | None = None,
    hooks: EvaluationHooks | None = None,
) -> SamplingOutcome:
    """txt2img's sampling: `settings.steps` steps from the first tensor of `noise`.

    `start`: that tensor, where the caller has taken it already.
    Exceptions from `on_step` pass through, except `SamplingStopped`, which ends the run with the picture so far.
    """
    run = _Run(settings, evaluator, conditioning, noise, Extras(None, refiner, on_step, hooks))
    x = noise.next() if start is None else start
    if settings.sampler.domain == "timestep":
        return run.walk_timesteps(x, run.timesteps(settings.steps), settings.steps, start=x)
    sigmas = run.sigmas(settings.steps)
    if settings.options.sgm_noise_multiplier:
        run.infotext["SGM noise multiplier"] = True
        x = x * torch.sqrt(1.0 + sigmas[0] ** 2.0)
    else:
        x = x * sigmas[0]
    return run.walk_sigmas(x, sigmas, settings.steps, span=run.model_span(settings.steps), path=sigmas, start=x)


def sample_from_latent(
    settings: SamplingSettings,
    evaluator: Evaluator,
    conditioning: Conditioning,
    init_latent: Tensor,
    noise_tensor: Tensor,
    noise: ImageNoise,
    *,
    blend: InpaintBlend | None = None,
    refiner: RefinerSwitch | None = None,
    on_step: OnStep | None = None,
    hooks: EvaluationHooks | None = None,
) -> SamplingOutcome:
    """img2img's sampling and the hires pass: noise the latent part of the way, then sample from there.

    Args:
        init_latent: `[B, 4, h, w]`, what to start from.
        noise_tensor: `[B, 4, h, w]`, usually `noise.next()` times the noise multiplier.
        noise: for the noise of the steps; its start tensor must have been taken.
        blend: what inpainting keeps. The caller applies it once more to the result, as A1111 does.
    """
    run = _Run(settings, evaluator, conditioning, noise, Extras(blend, refiner, on_step, hooks))
    steps, last = settings.img2img_steps()
    if steps < 1:
        return SamplingOutcome(init_latent)
    if settings.sampler.domain == "timestep":
        return _timesteps_from_latent(run, init_latent, noise_tensor, steps, last)
    sigmas = run.sigmas(steps)
    remaining = sigmas[steps - last - 1 :]
    x = init_latent + noise_tensor * remaining[0]
    x = x + noise_tensor * run.extra_noise()
    span = Span.of(remaining)
    return run.walk_sigmas(x, remaining, last + 1, span=span, path=sigmas, start=init_latent)


def _timesteps_from_latent(run: _Run, latent: Tensor, noise: Tensor, steps: int, last: int) -> SamplingOutcome:
    timesteps = run.timesteps(steps)
    last = min(last, len(timesteps) - 1)
    alpha = run.alphas.cpu()[timesteps[last]]  # in float16 with `use_downcasted_alpha_bar`: so are its roots
    signal, share = alpha.sqrt().float(), (1 - alpha).sqrt().float()
    x = latent * signal + noise * share
    x = x + noise * run.extra_noise() * signal
    return run.walk_timesteps(x, timesteps[:last], last + 1, start=latent, is_img2img=True)


def refined_model(settings: SamplingSettings, evaluator: Evaluator, conditioning: Conditioning) -> RefinedModel:
    """What `RefinerSwitch.load` returns for another checkpoint's evaluator."""
    alphas = _alphas(settings, evaluator)
    quantize = settings.options.enable_quantization
    return RefinedModel(wrap_model(evaluator, settings.sampler.domain, alphas, quantize=quantize), conditioning)


def _alphas(settings: SamplingSettings, evaluator: Evaluator) -> Tensor:
    options = settings.options
    return effective_alphas(
        evaluator.alphas_cumprod,
        noise_schedule=options.sd_noise_schedule,
        downcast=options.use_downcasted_alpha_bar,
    )


class _Run:
    """The state of one run: the wrapped model and the infotext gathered so far."""

    def __init__(
        self,
        settings: SamplingSettings,
        evaluator: Evaluator,
        conditioning: Conditioning,
        noise: ImageNoise,
        extras: Extras,
    ) -> None:
        self.settings = settings
        self.sampler: Sampler = settings.sampler
        self.alphas = _alphas(settings, evaluator)
        self.infotext: dict[str, Any] = {}
        self._conditioning = conditioning
        self._noise = noise
        self._extras = extras
        quantize = settings.options.enable_quantization
        self._model: GuidedModel = wrap_model(evaluator, self.sampler.domain, self.alphas, quantize=quantize)
        self._note_alphas()

    # -- schedules -------------------------------------------------------------------------------------------------

    def sigmas(self, steps: int) -> Tensor:
        """The sigmas of `steps` steps under the options about them.

        They stay on the CPU wherever the latent is, so that samplers can look at them without waiting for a GPU.
        """
        discard = self._discards_next_to_last()
        schedule, model = self._schedule(), self._sigma_model()
        table = model.table
        options = self.settings.options
        context = ScheduleContext(table, options.sdxl, options.beta_dist_alpha, options.beta_dist_beta)
        sigma_min, sigma_max = self._range(schedule, model)
        sigmas = schedule.sigmas(steps + discard, sigma_min, sigma_max, rho=self._rho(schedule), context=context)
        if schedule.label == "Beta":
            self.infotext["Beta schedule alpha"] = options.beta_dist_alpha
            self.infotext["Beta schedule beta"] = options.beta_dist_beta
        return torch.cat([sigmas[:-2], sigmas[-1:]]) if discard else sigmas

    def timesteps(self, steps: int) -> Tensor:
        """The rising timesteps of `steps` steps."""
        return ddim_timesteps(steps + self._discards_next_to_last())

    def model_span(self, steps: int) -> Span:
        """The model's whole range, which DPM fast and adaptive sample in txt2img whatever the schedule."""
        sigmas = self._sigma_model().table.sigmas
        return Span(float(sigmas[-1]), float(sigmas[0]), steps)

    def _sigma_model(self) -> SigmaModel:
        if not isinstance(self._model, SigmaModel):
            raise TypeError(f"{self.sampler.name} has no sigmas")
        return self._model

    def _discards_next_to_last(self) -> bool:
        if self.sampler.discard_next_to_last_sigma:
            return True
        if self.settings.options.always_discard_next_to_last_sigma:
            self.infotext["Discard penultimate sigma"] = True
            return True
        return False

    def _schedule(self) -> Schedule:
        """The schedule to use; Automatic gives way to the sampler's preference."""
        schedule = self.settings.schedule
        if schedule is AUTOMATIC and self.sampler.schedule is not None:
            schedule = next(row for row in SCHEDULES if row.name == self.sampler.schedule)
        if schedule.function is not None:
            self._note_schedule(schedule)
        return schedule

    def _note_schedule(self, schedule: Schedule) -> None:
        if not self.settings.hires_pass:
            self.infotext["Schedule type"] = schedule.label
        elif schedule.label != self.settings.first_pass_schedule:
            self.infotext["Hires schedule type"] = schedule.label

    def _range(self, schedule: Schedule, model: SigmaModel) -> tuple[float, float]:
        options = self.settings.options
        whole = float(model.table.sigmas[0]), float(model.table.sigmas[-1])
        low, high = (0.1, 10.0) if options.use_old_karras_scheduler_sigmas else whole
        if schedule.function is None:
            return low, high
        if options.sigma_min != 0 and options.sigma_min != whole[0]:
            self.infotext["Schedule min sigma"] = low = options.sigma_min
        if options.sigma_max != 0 and options.sigma_max != whole[1]:
            self.infotext["Schedule max sigma"] = high = options.sigma_max
        return low, high

    def _rho(self, schedule: Schedule) -> float:
        rho = self.settings.options.rho
        if schedule.default_rho == -1 or rho in (0, schedule.default_rho):
            return 0.0
        self.infotext["Schedule rho"] = rho
        return rho

    def _note_alphas(self) -> None:
        options = self.settings.options
        if options.use_downcasted_alpha_bar:
            self.infotext["Downcast alphas_cumprod"] = True
        if options.sd_noise_schedule == ZERO_TERMINAL_SNR:
            self.infotext["Noise Schedule"] = ZERO_TERMINAL_SNR

    # -- sampling --------------------------------------------------------------------------------------------------

    def extra_noise(self) -> float:
        """img2img's share of additional noise."""
        extra = self.settings.options.img2img_extra_noise
        if extra > 0:
            self.infotext["Extra noise"] = extra
            return extra
        return 0.0

    def walk_sigmas(
        self, x: Tensor, sigmas: Tensor, steps: int, *, span: Span, path: Tensor, start: Tensor
    ) -> SamplingOutcome:
        """Sample along `sigmas`; `path` is the whole schedule, which Brownian noise spans."""
        arguments = self._settings_arguments()
        denoiser = self._denoiser(steps, start, blend_before=False)
        if "noise" in self.sampler.needs:
            arguments["noise"] = self._noise_function(x, path, sigmas)
        if "span" in self.sampler.needs:
            arguments["span"] = span
        return self._launch(denoiser, x, sigmas, arguments)

    def walk_timesteps(
        self, x: Tensor, timesteps: Tensor, steps: int, *, start: Tensor, is_img2img: bool = False
    ) -> SamplingOutcome:
        """Sample along rising `timesteps`, from the last to the first."""
        arguments = self._settings_arguments() | {"alphas_cumprod": self.alphas}
        denoiser = self._denoiser(steps, start, blend_before=True)
        if "noise" in self.sampler.needs:
            arguments["noise"] = lambda *_levels: self._noise.next()
        if "unconditional_eps" in self.sampler.needs:
            arguments["unconditional_eps"] = denoiser.unconditional
        if "is_img2img" in self.sampler.settings:
            arguments["is_img2img"] = is_img2img
        return self._launch(denoiser, x, timesteps, arguments)

    @torch.no_grad()
    def _launch(
        self, denoiser: GuidedDenoiser, x: Tensor, levels: Tensor, arguments: dict[str, Any]
    ) -> SamplingOutcome:
        stopped = False
        try:
            latent = self.sampler.function(denoiser, x, levels, **self.sampler.fixed, **arguments)
        except SamplingStopped:
            latent, stopped = denoiser.last_latent, True
        self.infotext.update(denoiser.finish())
        return SamplingOutcome(latent, self.infotext, stopped)

    def _denoiser(self, steps: int, start: Tensor, *, blend_before: bool) -> GuidedDenoiser:
        options, settings = self.settings.options, self.settings
        multiplier = self.sampler.cfg_multiplier
        guidance = GuidanceSettings(
            # Not multiplied without need: scripts bring numbers that are another one in every product.
            cfg_scale=settings.cfg_scale if multiplier == 1.0 else settings.cfg_scale * multiplier,
            image_cfg_scale=settings.image_cfg_scale,
            s_min_uncond=settings.s_min_uncond,
            s_min_uncond_all=options.s_min_uncond_all,
            skip_early_cond=options.skip_early_cond,
            batch_cond_uncond=options.batch_cond_uncond,
            pad_cond_uncond=options.pad_cond_uncond,
            pad_cond_uncond_v0=options.pad_cond_uncond_v0,
            live_preview_content=options.live_preview_content,
            refiner_switch_by_sample_steps=options.refiner_switch_by_sample_steps,
            needs_uncond="unconditional_eps" in self.sampler.needs,
        )
        return GuidedDenoiser(
            self._model,
            self._conditioning,
            guidance,
            steps=steps,
            total_steps=self.sampler.total_steps(steps),
            start=start,
            blend=self._extras.blend,
            blend_before=blend_before,
            refiner=self._extras.refiner,
            on_step=self._extras.on_step,
            hooks=self._extras.hooks,
        )

    def _noise_function(self, x: Tensor, path: Tensor, sigmas: Tensor) -> NoiseFunction:
        if self.sampler.brownian_noise:
            per_image = not self.settings.options.no_dpmpp_sde_batch_determinism
            # One tree for the batch is k-diffusion's own, which knows of the steps to walk only.
            span = path if per_image else sigmas
            return BrownianNoise(x, span, self._noise.seeds, source=self._noise.source, per_image=per_image)
        return lambda _sigma, _sigma_next: self._noise.next()

    # -- settings of the sampler -----------------------------------------------------------------------------------

    def _settings_arguments(self) -> dict[str, Any]:
        wanted = self.sampler.settings
        arguments: dict[str, Any] = {}
        if "eta" in wanted:
            arguments["eta"] = self._eta()
        arguments |= {name: value for name, value in self._churn().items() if name in wanted}
        options = self.settings.options
        unipc = {
            "uni_pc_variant": options.uni_pc_variant,
            "uni_pc_skip_type": options.uni_pc_skip_type,
            "uni_pc_order": options.uni_pc_order,
            "uni_pc_lower_order_final": options.uni_pc_lower_order_final,
        }
        return arguments | {name: value for name, value in unipc.items() if name in wanted}

    def _eta(self) -> float:
        name, default = _ETA_DEFAULTS[self.sampler.domain]
        options = self.settings.options
        eta = self.settings.eta
        if eta is None:
            eta = options.eta_ddim if self.sampler.domain == "timestep" else options.eta_ancestral
        if eta != default:
            self.infotext[name] = eta
        return eta

    def _churn(self) -> dict[str, float]:
        """The request's values, but an option that differs from its neutral value wins and is noted.

        That way round as in A1111 (`sd_samplers_common.Sampler.initialize`); an s_tmax of 0 means infinity.
        """
        settings, options = self.settings, self.settings.options
        infinity = float("inf")
        rows = (
            ("s_churn", "Sigma churn", settings.s_churn, options.s_churn, 0.0),
            ("s_tmin", "Sigma tmin", settings.s_tmin, options.s_tmin, 0.0),
            ("s_tmax", "Sigma tmax", settings.s_tmax or infinity, options.s_tmax or infinity, infinity),
            ("s_noise", "Sigma noise", settings.s_noise, options.s_noise, 1.0),
        )
        values: dict[str, float] = {}
        for name, label, requested, option, neutral in rows:
            values[name] = requested
            if option != neutral and name in self.sampler.settings:
                values[name] = self.infotext[label] = option
        return values
