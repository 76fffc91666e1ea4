"""txt2img: from noise to decoded pictures, with the hires pass where it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sdwebui_api.catalog.upscalers import LATENT_UPSCALE_MODES, LatentUpscaleMode
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.generation.hires import HiresSize, hires_size
from sdwebui_api.generation.keeping import PictureKeeper
from sdwebui_api.generation.latents import (
    decode_latents,
    fully_masked_conditioning,
    images_to_tensor,
    latent_shape,
    picture_conditioning,
    posterior_noise,
    shared_posterior_noise,
    tensor_to_images,
)
from sdwebui_api.generation.plan import Batch
from sdwebui_api.generation.request import HiresPass
from sdwebui_api.generation.run import ConcatFor, Run, short_title
from sdwebui_api.imaging.resize import ResizeMode, resize_image
from sdwebui_api.imaging.upscale import find_upscaler
from sdwebui_api.prompting.conditioning import PromptTiming
from sdwebui_api.sampling.names import find_sampler, find_schedule
from sdwebui_api.sampling.session import SamplingSettings, sample_from_latent, sample_from_noise
from sdwebui_api.scripting.hooks import Draft, Sampled, SamplingStart


class TextToImage:
    """The workflow of a txt2img request; `sample` is called once per batch."""

    def __init__(self, run: Run, keeper: PictureKeeper) -> None:
        self._run = run
        self._hires = _HiresWorkflow(run, run.request.hires, keeper) if run.request.hires else None

    @property
    def passes(self) -> int:
        """Sampling passes per batch."""
        return 2 if self._hires and not self._hires.starts_from_picture else 1

    def sample(self, batch: Batch, title: str | None) -> Tensor:
        """Decoded pictures [B, 3, H, W] in about [-1, 1]. `title` names the batch to waiting clients."""
        if self._hires is not None and self._hires.starts_from_picture:
            return self._hires.sample(batch, None, title)
        run, request = self._run, self._run.request
        settings = run.first_pass_settings()
        timing = PromptTiming(settings.total_steps, use_old=request.options.use_old_scheduling)

        def concat(model: DiffusionModel) -> Tensor | None:
            return fully_masked_conditioning(model, batch.seeds, request.width, request.height)

        conditioning = run.condition(run.model, batch, timing, concat(run.model))
        noise = run.noise(batch, latent_shape(run.model, request.width, request.height))
        start = run.hooks.before_sampling(SamplingStart(noise.next(), None, conditioning, settings, batch))
        run.job.start_batch(title, start.settings.steps)
        with run.sampling(run.model):
            outcome = sample_from_noise(
                start.settings,
                run.evaluator(run.model),
                start.conditioning,
                noise,
                start=start.noise,
                refiner=run.refiner(start.settings, batch, timing, concat),
                on_step=run.report_to_job(run.model),
                hooks=run.hooks.per_evaluation,
            )
        run.infotext.update(outcome.infotext)
        if self._hires is None or run.job.interrupted:
            return run.finish(run.model, Sampled(outcome.latent, batch))
        return self._hires.sample(batch, outcome.latent)


class _HiresWorkflow:
    """The second pass: enlarge, add noise, sample again. A1111 `StableDiffusionProcessingTxt2Img.sample_hr_pass`."""

    def __init__(self, run: Run, hires: HiresPass, keeper: PictureKeeper) -> None:
        self._run = run
        self._hires = hires
        self._keeper = keeper
        self._size = hires_size(run.request.width, run.request.height, hires, run.model.latent_scale)
        run.infotext.update(_infotext(run, hires, self._size))
        if hires.checkpoint is None and self._latent_mode is None and run.model.tiny_vae.encodes:
            run.model.tiny_vae.require_encoder()  # rather than after the first pass's steps

    @property
    def starts_from_picture(self) -> bool:
        """The request brought what the first pass would have made."""
        return self._hires.first_picture is not None

    def sample(self, batch: Batch, first: Tensor | None, title: str | None = None) -> Tensor:
        """Decoded pictures [B, 3, H, W] in about [-1, 1]. `first`: latents of the first pass, unless the request
        `starts_from_picture`; then this is the batch's only pass, and `title` names it to waiting clients."""
        run, hires = self._run, self._hires
        first_model = run.model
        run.use_networks(run.plan.full_batch(batch.index, hires=True), hires=True)
        model = run.borrow(hires.checkpoint, hires.vae) if hires.checkpoint else run.model
        latent, whole_concat = self._enlarge(model, batch, first)
        if first is not None:
            run.job.next_part()
        latent = self._crop(latent)
        if run.job.should_stop:
            return decode_latents(model, latent, tiling=run.request.tiling)
        noise = run.noise(batch, tuple(latent.shape[1:]))
        start_noise = noise.next()
        run.take(run.hooks.before_hires(Draft(run.request, run.plan, batch)))
        before = run.first_pass_settings()
        settings = self._settings(before)
        timing = PromptTiming(before.total_steps, settings.total_steps, run.request.options.use_old_scheduling)
        hires_batch = run.plan.batch(batch.index, hires=True)
        size = self._size.width, self._size.height

        def concat(model: DiffusionModel) -> Tensor | None:
            whole = whole_concat(model)
            return self._crop(whole) if whole is not None else None

        # With the networks of the first pass in the text encoder, if so wanted, and those of the second in the UNet.
        by_first = run.request.options.hires_fix_use_firstpass_conds and hires.checkpoint is None
        conditioning = run.condition(
            model,
            hires_batch,
            timing,
            concat(model),
            size=size,
            report=False,
            encoded_by=first_model if by_first else None,
        )
        start = run.hooks.before_sampling(
            SamplingStart(start_noise, latent, conditioning, settings, hires_batch, hires_pass=True)
        )
        run.job.start_batch(title, start.settings.steps)
        with run.sampling(model):
            outcome = sample_from_latent(
                start.settings,
                run.evaluator(model, hires_pass=True),
                start.conditioning,
                latent if start.latent is None else start.latent,
                start.noise,
                noise,
                refiner=run.refiner(start.settings, hires_batch, timing, concat, size),
                on_step=run.report_to_job(model),
                hooks=run.hooks.per_evaluation,
            )
        run.infotext.update(outcome.infotext)
        return run.finish(model, Sampled(outcome.latent, batch))

    def _settings(self, first: SamplingSettings) -> SamplingSettings:
        hires = self._hires
        return replace(
            first,
            sampler=find_sampler(hires.sampler) if hires.sampler else first.sampler,
            schedule=find_schedule(hires.schedule) if hires.schedule else first.schedule,
            steps=hires.steps or first.steps,
            hires_pass=True,
            first_pass_schedule=self._run.infotext.get("Schedule type"),
        )

    @property
    def _latent_mode(self) -> LatentUpscaleMode | None:
        """How latents are enlarged; None: pictures are."""
        return LATENT_UPSCALE_MODES.get(self._hires.upscaler or "Latent")

    def _enlarge(self, model: DiffusionModel, batch: Batch, first: Tensor | None) -> tuple[Tensor, ConcatFor]:
        """The latent at the second pass's size, and the image conditioning that goes with it."""
        options = self._run.request.options
        mode = self._latent_mode
        if mode is None:
            return self._enlarge_pictures(model, batch, self._first_pictures(batch, first))
        latent = self._first_latent(batch) if first is None else first
        if first is not None and self._keeper.keeps_first_pass:
            self._keeper.keep_first_pass(batch, tensor_to_images(model.decode(first, tiling=self._run.request.tiling)))
        size = self._size.height // model.latent_scale, self._size.width // model.latent_scale
        latent = torch.nn.functional.interpolate(latent, size=size, mode=mode.mode, antialias=mode.antialias)
        if options.inpainting_mask_weight >= 1.0:
            width, height = size[1] * model.latent_scale, size[0] * model.latent_scale
            return latent, lambda model: fully_masked_conditioning(model, batch.seeds, width, height)
        return latent, self._shows(batch, decode_latents(model, latent, tiling=False), latent)

    def _first_latent(self, batch: Batch) -> Tensor:
        """The given picture, by the model that the first pass would have run on."""
        model, pictures = self._run.model, images_to_tensor(self._first_pictures(batch, None))
        shape = latent_shape(model, pictures.shape[-1], pictures.shape[-2])
        noise = posterior_noise(batch.seeds, shape, model.device)
        return self._run.encode(model, pictures.expand(len(batch), -1, -1, -1), noise)

    def _first_pictures(self, batch: Batch, first: Tensor | None) -> list[Image.Image]:
        """Those of the first pass, decoded by its VAE; or the one that was given, for all."""
        if self._hires.first_picture is not None:
            return [self._hires.first_picture]
        assert first is not None
        small = tensor_to_images(self._run.decode(self._run.model, first))
        self._keeper.keep_first_pass(batch, small)
        return small

    def _enlarge_pictures(
        self, model: DiffusionModel, batch: Batch, small: Sequence[Image.Image]
    ) -> tuple[Tensor, ConcatFor]:
        """Through an image upscaler; encoded by the second pass's VAE. `small`: one for all, or one each."""
        upscaler = find_upscaler(self._hires.upscaler or "", "hr_upscaler", self._run.upscalers)
        size = self._size.width, self._size.height
        images = [resize_image(ResizeMode.JUST_RESIZE, image, *size, upscaler) for image in small]
        pictures = images_to_tensor(images).expand(len(batch), -1, -1, -1)
        shape = latent_shape(model, self._size.width, self._size.height)
        noise = shared_posterior_noise(batch.seeds[-1], len(batch), shape, model.device)
        latent = self._run.encode(model, pictures, noise)
        return latent, self._shows(batch, pictures, latent)

    def _shows(self, batch: Batch, pictures: Tensor, latent: Tensor) -> ConcatFor:
        weight = self._run.request.options.inpainting_mask_weight
        size = latent.shape[-2], latent.shape[-1]
        return lambda model: picture_conditioning(model, pictures, batch.seeds, size, mask_weight=weight)

    def _crop(self, latent: Tensor) -> Tensor:
        """Cut away what the box of `hr_resize_x` and `hr_resize_y` does not hold, evenly on both sides."""
        x, y = self._size.truncate_x, self._size.truncate_y
        return latent[:, :, y // 2 : latent.shape[2] - (y + 1) // 2, x // 2 : latent.shape[3] - (x + 1) // 2]


def _infotext(run: Run, hires: HiresPass, size: HiresSize) -> dict[str, Any]:
    """In A1111's order. The prompts differ per picture and are filled in where a picture is described."""
    entries: dict[str, Any] = {"Denoising strength": run.request.denoising_strength}
    if hires.checkpoint:
        entries["Hires checkpoint"] = short_title(hires.checkpoint)
    if hires.sampler and hires.sampler != run.request.sampler:
        entries["Hires sampler"] = hires.sampler
    entries |= {"Hires prompt": None, "Hires negative prompt": None, "Hires schedule type": None, **size.infotext}
    if hires.steps:
        entries["Hires steps"] = hires.steps
    if hires.upscaler:
        entries["Hires upscaler"] = hires.upscaler
    return entries
