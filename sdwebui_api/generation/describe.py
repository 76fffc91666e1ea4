"""What is said about the pictures of a run: their infotexts, the answer's `info`, and the facts for file names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdwebui_api.config.options import Options
from sdwebui_api.generation.filenames import NamingFacts
from sdwebui_api.generation.infotext import (
    PROGRAM_VERSION,
    PictureFacts,
    generation_params,
    hires_prompt_entries,
    write_infotext,
)
from sdwebui_api.generation.latents import is_edit_model, is_inpainting_model
from sdwebui_api.generation.merging_ratio import token_merging_ratio
from sdwebui_api.generation.plan import GenerationPlan
from sdwebui_api.generation.request import GeneratedImage, GenerationRequest
from sdwebui_api.generation.run import Run
from sdwebui_api.sampling.names import find_sampler

if TYPE_CHECKING:
    from sdwebui_api.jobs.job import Job


def infotext(run: Run, index: int) -> str:
    """The infotext of picture `index` of the whole request."""
    plan = run.plan
    extra = {name: value(index) if callable(value) else value for name, value in run.infotext.items()}
    if run.request.hires is not None:
        hires = plan.hires_prompts[index], plan.hires_negative_prompts[index]
        extra |= hires_prompt_entries(plan.prompts, plan.negative_prompts, *hires, index)
    params = generation_params(_facts(run, index, extra), run.request.options)
    return write_infotext(plan.prompts[index], plan.negative_prompts[index], params, index)


def infotext_without_run(
    request: GenerationRequest, plan: GenerationPlan, extra: dict[str, Any], user: str | None, prompt: str | None = None
) -> str:
    """The infotext of the first picture of a request that was not, or not as such, generated (a script's grid)."""
    params = generation_params(_request_facts(request, plan, 0, extra, user), request.options)
    return write_infotext(plan.main.prompt if prompt is None else prompt, plan.main.negative_prompt, params)


def _facts(run: Run, index: int, extra: dict[str, Any]) -> PictureFacts:
    request = run.request
    image_cfg_scale = request.init.image_cfg_scale if request.init and is_edit_model(run.model) else None
    return replace(
        _request_facts(request, run.plan, index, extra, run.job.user),
        image_cfg_scale=image_cfg_scale,
        inpainting_conditioning=is_inpainting_model(run.model),
        fp8=run.model.float8,
        init_image_hash=run.init_image_hash,
    )


def _request_facts(
    request: GenerationRequest, plan: GenerationPlan, index: int, extra: dict[str, Any], user: str | None
) -> PictureFacts:
    checkpoint, vae = request.checkpoint, request.vae
    return PictureFacts(
        steps=request.steps,
        sampler=request.sampler,
        schedule=request.schedule,
        cfg_scale=request.cfg_scale,
        seed=plan.seeds[index],
        width=request.width,
        height=request.height,
        restore_faces=request.restore_faces,
        model_hash=checkpoint.shorthash,
        model_name=checkpoint.model_name,
        vae_hash=vae.shorthash if vae else None,
        vae_name=vae.name if vae else None,
        subseed=plan.subseeds[index],
        subseed_strength=request.subseed_strength,
        seed_resize_from_w=request.seed_resize_from_w,
        seed_resize_from_h=request.seed_resize_from_h,
        clip_skip=int(request.options.CLIP_stop_at_last_layers),
        uses_ensd=_draws_shifted_noise(request),
        hires=request.hires is not None,
        token_merging_ratio=token_merging_ratio(request),
        token_merging_ratio_hr=token_merging_ratio(request, hires_pass=True),
        tiling=request.tiling,
        user=user,
        extra=extra,
    )


def _draws_shifted_noise(request: GenerationRequest) -> bool:
    """Whether the option `eta_noise_seed_delta` changes this picture: the sampler adds noise that it shifts."""
    sampler = find_sampler(request.sampler)
    eta = request.options.eta_ancestral if request.eta is None else request.eta
    return sampler.uses_ensd and eta != 0


def info(run: Run, images: list[GeneratedImage]) -> dict[str, Any]:
    """The keys of A1111's `info`, in its order, and `warnings`."""
    request, plan = run.request, run.plan
    first = 1 if images and images[0].role == "grid" else 0
    texts = [image.infotext for image in images if image.role in ("grid", "sample")]
    return {
        "prompt": plan.main.prompt,
        "all_prompts": list(plan.prompts),
        "negative_prompt": plan.main.negative_prompt,
        "all_negative_prompts": list(plan.negative_prompts),
        "seed": plan.seeds[0],
        "all_seeds": list(plan.seeds),
        "subseed": plan.subseeds[0],
        "all_subseeds": list(plan.subseeds),
        "subseed_strength": request.subseed_strength,
        "width": request.width,
        "height": request.height,
        "sampler_name": request.sampler,
        "cfg_scale": request.cfg_scale,
        "steps": request.steps,
        "batch_size": plan.batch_size,
        "restore_faces": request.restore_faces,
        "face_restoration_model": request.options.face_restoration_model if request.restore_faces else None,
        "sd_model_name": request.checkpoint.model_name,
        "sd_model_hash": request.checkpoint.shorthash,
        "sd_vae_name": request.vae.name if request.vae else None,
        "sd_vae_hash": request.vae.shorthash if request.vae else None,
        "seed_resize_from_w": request.seed_resize_from_w,
        "seed_resize_from_h": request.seed_resize_from_h,
        "denoising_strength": request.denoising_strength,
        "extra_generation_params": {name: None if callable(v) else v for name, v in run.infotext.items()},
        "index_of_first_image": first,
        "infotexts": texts or [infotext(run, 0)],
        "styles": list(request.styles),
        "job_timestamp": run.job.job_timestamp,
        "clip_skip": int(request.options.CLIP_stop_at_last_layers),
        "is_using_inpainting_conditioning": is_inpainting_model(run.model),
        "version": PROGRAM_VERSION,
        "warnings": list(run.warnings),
    }


def naming_facts(run: Run, index: int) -> NamingFacts:
    """What file names may say about picture `index`."""
    return naming_facts_of(run.request, run.plan, index, run.job)


def naming_facts_of(request: GenerationRequest, plan: GenerationPlan, index: int, job: Job) -> NamingFacts:
    """The same of a request alone."""
    return NamingFacts(
        prompt=plan.prompts[index],
        negative_prompt=plan.negative_prompts[index],
        prompt_without_styles=request.prompt,
        styles=request.styles,
        seed=plan.seeds[index],
        seeds=plan.seeds,
        steps=request.steps,
        cfg_scale=request.cfg_scale,
        sampler=request.sampler,
        schedule=request.schedule,
        model_hash=request.checkpoint.shorthash or "",
        model_name=request.checkpoint.model_name,
        vae_name=request.vae.name if request.vae else None,
        denoising_strength=request.denoising_strength,
        clip_skip=int(request.options.CLIP_stop_at_last_layers),
        user=job.user,
        batch_size=plan.batch_size,
        n_iter=request.n_iter,
        batch_index=index % plan.batch_size,
        iteration=index // plan.batch_size,
        job_timestamp=job.job_timestamp,
        prompt_words=int(request.options.directories_max_prompt_words),
    )


# Option -> the values under which it changes nothing here. Anything else would be a picture other than asked for.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "sd_unet": ("Automatic", "None"),
}


def unsupported_options(options: Options) -> list[str]:
    """A warning for every setting that A1111 would heed and this server does not."""
    return [
        f"{name} is not supported and has no effect"
        for name, neutral in _WITHOUT_EFFECT.items()
        if options.get(name, neutral[0]) not in neutral
    ]
