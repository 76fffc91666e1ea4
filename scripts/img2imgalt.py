"""img2img alternative test: find the noise behind a picture, then sample from it with a changed prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.run import RequestModel
from sdwebui_api.prompting.encoding import TextConditioner, TextSettings
from sdwebui_api.sampling.inversion import noise_of
from sdwebui_api.sampling.model import SigmaModel
from sdwebui_api.sampling.sigma_table import SigmaTable, effective_alphas
from sdwebui_api.scripting.checks import number, whole
from sdwebui_api.scripting.hooks import (
    Argument,
    Arguments,
    GenerationRequest,
    GenerationResult,
    Hooks,
    Running,
    SamplingStart,
    Script,
    ScriptContext,
)


class Img2ImgAlternative(Script):
    title = "img2img alternative test"
    kinds = ("img2img",)
    args = (
        Argument("hint", "* `CFG Scale` should be 2 or lower."),
        Argument("override_sampler", True, "Override `Sampling method` to Euler?(this method is built for it)"),
        Argument(
            "override_prompt",
            True,
            "Override `prompt` to the same value as `original prompt`?(and `negative prompt`)",
        ),
        Argument("original_prompt", "", "Original prompt"),
        Argument("original_negative_prompt", "", "Original negative prompt"),
        Argument("override_steps", True, "Override `Sampling Steps` to the same value as `Decode steps`?"),
        Argument("decode_steps", 50, "Decode steps", 1, 150, 1),
        Argument("override_strength", True, "Override `Denoising strength` to 1?"),
        Argument("cfg", 1.0, "Decode CFG scale", 0.0, 15.0, 0.1),
        Argument("randomness", 0.0, "Randomness", 0.0, 1.0, 0.01),
        Argument("sigma_adjustment", False, "Sigma adjustment for finding noise for image"),
    )

    def run(self, request: GenerationRequest, args: Arguments, context: ScriptContext) -> GenerationResult:
        _check(args)
        if args.override_sampler:
            request = replace(request, sampler="Euler")
        if args.override_prompt:
            request = replace(request, prompt=args.original_prompt, negative_prompt=args.original_negative_prompt)
        if args.override_steps:
            request = replace(request, steps=args.decode_steps)
        if args.override_strength:
            request = replace(request, denoising_strength=1.0)
        infotext = {
            "Decode prompt": args.original_prompt,
            "Decode negative prompt": args.original_negative_prompt,
            "Decode CFG scale": args.cfg,
            "Decode steps": args.decode_steps,
            "Randomness": args.randomness,
            "Sigma Adjustment": args.sigma_adjustment,
        }
        context.set_total(2 * request.n_iter)
        return context.generate(
            request, hooks=[_FromItsNoise(args, request.tiling, request.options.upcast_attn)], infotext=infotext
        )


def _check(args: Arguments) -> None:
    whole(args.decode_steps, 1, 1000, "Decode steps")
    number(args.cfg, -1e4, 1e4, "Decode CFG scale")
    number(args.randomness, 0, 1, "Randomness")


@dataclass
class _FromItsNoise(Hooks):
    """Replaces the noise that img2img adds, so that sampling starts at what the picture came from."""

    args: Arguments
    tiling: bool
    upcast: bool

    def before_sampling(self, start: SamplingStart, run: Running) -> SamplingStart:
        if start.latent is None:
            return start
        if run.model.family.label is not None:
            raise BadRequest(f"img2img alternative test cannot use a checkpoint of {run.model.family.title}")
        options = start.settings.options
        alphas = effective_alphas(
            run.model.alphas_cumprod,
            noise_schedule=options.sd_noise_schedule,
            downcast=options.use_downcasted_alpha_bar,
        )
        model = SigmaModel(RequestModel(run.model, self.tiling, self.upcast), SigmaTable(alphas))
        found = self._found_noise(model, start.latent, start, run)
        share = self.args.randomness
        mixed = ((1 - share) * found + share * start.noise) / (share**2 + (1 - share) ** 2) ** 0.5
        # img2img adds the noise to the picture; here it shall be all there is.
        largest = model.table.evenly_spaced(start.settings.steps)[0].to(start.latent)
        return replace(start, noise=mixed - start.latent / largest)

    def _found_noise(self, model: SigmaModel, latent: Tensor, start: SamplingStart, run: Running) -> Tensor:
        job, steps = run.job, self.args.decode_steps
        job.start_batch(None, steps)

        def report(step: int) -> bool:
            job.step(step)
            return job.should_stop

        cond, uncond = self._encoded(start, run)
        noise = noise_of(
            model,
            latent,
            cond,
            uncond,
            self.args.cfg,
            steps,
            concat=start.conditioning.concat,
            adjust_sigmas=self.args.sigma_adjustment,
            on_step=report,
        )
        job.next_part()
        return noise

    def _encoded(self, start: SamplingStart, run: Running) -> tuple[Tensor, Tensor]:
        """The original prompts, each `[B, T, D]`; editing and AND have no meaning here."""
        options = run.request.options
        settings = TextSettings.of(options, run.model.family.own_clip_skip)
        conditioner = TextConditioner(run.model.text_encoder, run.model.embeddings)
        texts = self.args.original_prompt, self.args.original_negative_prompt
        cond, uncond = (torch.stack(list(conditioner.encode([text], settings).tensors)) for text in texts)
        count = len(start.noise)
        return cond.expand(count, -1, -1), uncond.expand(count, -1, -1)
