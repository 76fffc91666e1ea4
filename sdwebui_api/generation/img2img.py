"""img2img and inpainting: from start images to decoded pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.generation.latents import (
    images_to_tensor,
    latent_shape,
    picture_conditioning,
    posterior_noise,
    shared_posterior_noise,
)
from sdwebui_api.generation.plan import Batch
from sdwebui_api.generation.request import InitImage
from sdwebui_api.generation.run import Run
from sdwebui_api.imaging.inpaint import LATENT_NOISE, LATENT_NOTHING, PreparedInit, prepare_inpaint
from sdwebui_api.imaging.masks import latent_mask_values
from sdwebui_api.imaging.resize import ResizeMode
from sdwebui_api.imaging.upscale import find_upscaler
from sdwebui_api.prompting.conditioning import PromptTiming
from sdwebui_api.sampling.noise import seeded_noise
from sdwebui_api.sampling.session import InpaintBlend, sample_from_latent
from sdwebui_api.scripting.hooks import Sampled, SamplingStart


class ImageToImage:
    """The workflow of an img2img request; `sample` is called once per batch."""

    passes = 1

    def __init__(self, run: Run, init: InitImage) -> None:
        self._run = run
        self._init = init
        request, options = run.request, run.request.options
        run.infotext["Denoising strength"] = request.denoising_strength
        name, name_field = options.upscaler_for_img2img, "override_settings.upscaler_for_img2img"
        self.prepared: PreparedInit = prepare_inpaint(
            init.images,
            init.mask,
            request.width,
            request.height,
            init.resize_mode,
            latent_mask=init.latent_mask,
            background=options.img2img_background_color,
            color_correction=options.img2img_color_correction,
            upscaler=find_upscaler(name, name_field, run.upscalers) if name else None,
        )
        run.prepared = self.prepared
        run.infotext.update(self.prepared.infotext)
        run.warnings.extend(self.prepared.comments)

    def sample(self, batch: Batch, title: str | None) -> Tensor:
        """Decoded pictures [B, 3, H, W] in about [-1, 1]. `title` names the batch to waiting clients."""
        run, request = self._run, self._run.request
        pictures = self._pictures(batch)
        init_latent = self._encode(batch, pictures)
        repaint = self._repaint_mask(init_latent)
        if repaint is not None:
            init_latent = self._fill(init_latent, repaint)
        settings = run.first_pass_settings()
        timing = PromptTiming(settings.total_steps, use_old=request.options.use_old_scheduling)

        def concat(model: DiffusionModel) -> Tensor | None:
            return self._image_conditioning(model, batch, pictures, init_latent)

        conditioning = run.condition(run.model, batch, timing, concat(run.model))
        noise = run.noise(batch, latent_shape(run.model, request.width, request.height))
        start_noise = self._multiplied(noise.next())
        start = run.hooks.before_sampling(SamplingStart(start_noise, init_latent, conditioning, settings, batch))
        init_latent = init_latent if start.latent is None else start.latent
        keep = None if repaint is None else 1.0 - repaint
        # The wire counts the steps that are run, which the denoising strength cuts short.
        run.job.start_batch(title, start.settings.img2img_steps()[1] + 1)
        with run.sampling(run.model):
            outcome = sample_from_latent(
                start.settings,
                run.evaluator(run.model),
                start.conditioning,
                init_latent,
                start.noise,
                noise,
                blend=InpaintBlend(keep, init_latent, run.hooks.blending) if keep is not None else None,
                refiner=run.refiner(start.settings, batch, timing, concat),
                on_step=run.report_to_job(run.model),
                hooks=run.hooks.per_evaluation,
            )
        run.infotext.update(outcome.infotext)
        latent = outcome.latent
        if keep is not None:
            latent = run.hooks.blended(latent, init_latent, keep)
        return run.finish(run.model, Sampled(latent, batch, init_latent if keep is not None else None, keep))

    def _pictures(self, batch: Batch) -> Tensor:
        """[B, 3, H, W] in [-1, 1]: one start image for all, or one each."""
        pictures = images_to_tensor(self.prepared.images)
        return pictures.expand(len(batch), -1, -1, -1) if len(pictures) == 1 else pictures[: len(batch)]

    def _encode(self, batch: Batch, pictures: Tensor) -> Tensor:
        run, model = self._run, self._run.model
        shape = (model.latent_channels, *(side // model.latent_scale for side in pictures.shape[-2:]))
        noise = self._posterior_noise(batch, shape)
        latent = run.encode(model, pictures, noise)
        if self._init.resize_mode == ResizeMode.LATENT:
            size = latent_shape(model, run.request.width, run.request.height)[1:]
            latent = torch.nn.functional.interpolate(latent, size=size, mode="bilinear")
        return latent

    def _posterior_noise(self, batch: Batch, shape: tuple[int, ...]) -> Tensor:
        seed, device = self._init.posterior_seed, self._run.model.device
        if seed is None or batch.index > 0:
            return posterior_noise(batch.seeds, shape, device)
        return shared_posterior_noise(seed, len(batch), shape, device)

    def _repaint_mask(self, latent: Tensor) -> Tensor | None:
        """[h, w], 1 where the picture is repainted; None without a mask."""
        if self.prepared.latent_mask is None or self._init.mask is None:
            return None
        height, width = latent.shape[-2:]
        values = latent_mask_values(self.prepared.latent_mask, width, height, self._init.mask.round)
        return torch.from_numpy(np.ascontiguousarray(values)).to(latent)

    def _fill(self, latent: Tensor, repaint: Tensor) -> Tensor:
        """Put the masked content in place that only exists in latent space."""
        fill = self._init.mask.fill if self._init.mask else None
        if fill == LATENT_NOISE:
            seeds = self._run.plan.seeds[: len(latent)]
            source = self._run.request.options.randn_source
            noise = seeded_noise(latent.shape[1:], seeds, source=source, device=latent.device)
            return latent * (1.0 - repaint) + noise * repaint
        return latent * (1.0 - repaint) if fill == LATENT_NOTHING else latent

    def _image_conditioning(
        self, model: DiffusionModel, batch: Batch, pictures: Tensor, latent: Tensor
    ) -> Tensor | None:
        mask = None
        if self.prepared.image_mask is not None and self._init.mask is not None:
            values = np.asarray(self.prepared.image_mask.convert("L"), dtype=np.float32) / 255.0
            mask = torch.from_numpy(np.round(values) if self._init.mask.round else values)[None, None]
        return picture_conditioning(
            model,
            pictures,
            batch.seeds,
            (latent.shape[-2], latent.shape[-1]),
            mask=mask,
            mask_weight=self._run.request.options.inpainting_mask_weight,
        )

    def _multiplied(self, noise: Tensor) -> Tensor:
        multiplier = self._init.initial_noise_multiplier
        if multiplier != 1.0:
            self._run.infotext["Noise multiplier"] = multiplier
        return noise * multiplier
