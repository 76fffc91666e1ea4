"""Between pictures and tensors: images to model input, decoded tensors to images, conditioning pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdwebui_api.sampling.noise import seeded_generator

if TYPE_CHECKING:
    from sdwebui_api.engine.model import DiffusionModel

POSTERIOR_STREAM = 10007
"""Keeps the posterior's draw apart from the start noise of the same seed: equal draws would add up."""


def images_to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """RGB images of one size -> float32 [B, 3, H, W] in [-1, 1]."""
    pixels = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
    return torch.from_numpy(pixels / 255.0).permute(0, 3, 1, 2).contiguous() * 2.0 - 1.0


def tensor_to_images(decoded: Tensor) -> list[Image.Image]:
    """Decoded [B, 3, H, W] in about [-1, 1] -> RGB images.

    Values are cut off, not rounded, to 8 bits: A1111 `process_images_inner` does so, and rounding would
    make every picture half a level brighter than its recording.
    """
    levels = (torch.clamp((decoded.float() + 1.0) / 2.0, 0.0, 1.0) * 255.0).permute(0, 2, 3, 1)
    return [Image.fromarray(pixels) for pixels in levels.cpu().numpy().astype(np.uint8)]


def posterior_noise(seeds: Sequence[int], shape: Sequence[int], device: torch.device) -> Tensor:
    """The draw from the VAE posterior, float32 [len(seeds), *shape], one independent stream per image.

    A1111 draws it from the global generator, so its img2img depends on the request before. Here it comes
    from the image's seed, so that a request repeats and a batch equals its images alone.
    """
    draws = [torch.randn(tuple(shape), generator=seeded_generator(seed + POSTERIOR_STREAM)) for seed in seeds]
    return torch.stack(draws).to(device)


def shared_posterior_noise(seed: int, count: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """As `posterior_noise`, but all images draw one after the other from a single stream.

    This is what A1111's hires pass does: the generator it finds there was last seeded for the batch's
    last image (`rng.randn`).
    """
    generator = seeded_generator(seed)
    return torch.stack([torch.randn(tuple(shape), generator=generator) for _ in range(count)]).to(device)


def encode_images(model: DiffusionModel, images: Tensor, noise: Tensor | None, *, tiling: bool) -> Tensor:
    """Images [B, 3, H, W] in [-1, 1] -> scaled latents [B, 4, H/8, W/8] on the model's device.

    By TAESD where the setting `sd_vae_encode_method` says so; it has no posterior, so `noise` goes unused. Raises
    BadRequest when its file is not there.
    """
    if model.tiny_vae.encodes:
        return model.tiny_vae.require_encoder().encode(images, tiling=tiling)
    return model.encode(images.to(model.device), noise, tiling=tiling)


def decode_latents(model: DiffusionModel, latents: Tensor, *, tiling: bool) -> Tensor:
    """Scaled latents [B, 4, h, w] -> pictures [B, 3, 8h, 8w] in about [-1, 1].

    By TAESD where the setting `sd_vae_decode_method` says so. Raises Diverged for not-a-number.
    """
    decoder = model.tiny_vae.decoder
    return model.decode(latents, tiling=tiling) if decoder is None else decoder.decode(latents, tiling=tiling)


def latent_shape(model: DiffusionModel, width: int, height: int) -> tuple[int, int, int]:
    """[C, h, w] of the latent of one image; sides that are no multiple of 8 are rounded down."""
    return model.latent_channels, height // model.latent_scale, width // model.latent_scale


def is_inpainting_model(model: DiffusionModel) -> bool:
    """True for models that take the mask and the masked image as five more input channels."""
    return model.in_channels == model.latent_channels * 2 + 1


def is_edit_model(model: DiffusionModel) -> bool:
    """True for InstructPix2Pix-like models that take the source image as four more input channels."""
    return model.in_channels == model.latent_channels * 2


def fully_masked_conditioning(model: DiffusionModel, seeds: Sequence[int], width: int, height: int) -> Tensor | None:
    """Extra input channels of an inpainting model when there is no picture: everything is masked and gray."""
    if is_edit_model(model):
        return torch.zeros((len(seeds), *latent_shape(model, width, height)), device=model.device)
    if not is_inpainting_model(model):
        return None
    shape = latent_shape(model, width, height)
    gray = torch.zeros((len(seeds), 3, shape[1] * model.latent_scale, shape[2] * model.latent_scale))
    latents = encode_images(model, gray, posterior_noise(seeds, shape, model.device), tiling=False)
    return torch.nn.functional.pad(latents, (0, 0, 0, 0, 1, 0), value=1.0)


def picture_conditioning(
    model: DiffusionModel,
    images: Tensor,
    seeds: Sequence[int],
    latent_size: tuple[int, int],
    *,
    mask: Tensor | None = None,
    mask_weight: float = 1.0,
) -> Tensor | None:
    """Extra input channels of inpainting and edit models that start from `images` [B, 3, H, W] in [-1, 1].

    `mask` [1, 1, H, W] in [0, 1] is 1 where the picture is repainted; None means everywhere.
    `mask_weight` (option `inpainting_mask_weight`) says how much of the picture under the mask is hidden.
    """
    if is_edit_model(model):
        return model.encode(images.to(model.device), None) / model.latent_factor
    if not is_inpainting_model(model):
        return None
    images = images.to(model.device)
    if mask is None:
        mask = images.new_ones((1, 1, *images.shape[-2:]))
    mask = mask.to(images)
    hidden = torch.lerp(images, images * (1.0 - mask), mask_weight)
    shape = (model.latent_channels, images.shape[-2] // model.latent_scale, images.shape[-1] // model.latent_scale)
    latents = model.encode(hidden, posterior_noise(seeds, shape, model.device))
    small_mask = torch.nn.functional.interpolate(mask, size=latent_size).expand(len(images), -1, -1, -1)
    return torch.cat([small_mask, latents], dim=1)
