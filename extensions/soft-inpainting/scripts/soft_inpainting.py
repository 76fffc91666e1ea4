"""Soft inpainting: blend the start image in step by step, and lay it over the result only where little changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdwebui_api.imaging.resize import ResizeMode, flatten, resize_image
from sdwebui_api.imaging.soft_mask import change_mask, overlay_outside, picture_mask
from sdwebui_api.sampling.names import find_sampler
from sdwebui_api.scripting.checks import number
from sdwebui_api.scripting.hooks import (
    Argument,
    Arguments,
    Blend,
    Draft,
    GenerationRequest,
    Hooks,
    MaskOverlay,
    PicturePlace,
    Running,
    Sampled,
    Script,
)

_TINY = 0.00001


@dataclass(frozen=True)
class Settings:
    """power: how much more the start image holds at low noise; strength: how much it holds at all; detail: how far the
    blend keeps the stronger of two latents; mask_influence, threshold and contrast: where the result is covered again.
    """

    power: float
    strength: float
    detail: float
    mask_influence: float
    threshold: float
    contrast: float


class SoftInpainting(Script):
    title = "Soft Inpainting"
    kinds = ("img2img",)
    always_on = True
    args = (
        Argument("enabled", False, "Soft inpainting"),
        Argument("power", 1, "Schedule bias", 0, 8, 0.1),
        Argument("strength", 0.5, "Preservation strength", 0, 8, 0.05),
        Argument("detail", 4, "Transition contrast boost", 1, 32, 0.5),
        Argument("mask_influence", 0, "Mask influence", 0, 1, 0.05),
        Argument("threshold", 0.5, "Difference threshold", 0, 8, 0.25),
        Argument("contrast", 2, "Difference contrast", 0, 8, 0.25),
    )

    def hooks(self, request: GenerationRequest, args: Arguments) -> Hooks | None:
        if not args.enabled or request.init is None or request.init.mask is None:
            return None
        values = {name: value for name, value in args.items() if name != "enabled"}
        for argument in self.args[1:]:
            low, high = argument.minimum or 0, argument.maximum or 0
            number(values[argument.name], low, high, argument.label, "alwayson_scripts.Soft Inpainting.args")
        return _Softly(Settings(**values), values)


@dataclass
class _Softly(Hooks):
    settings: Settings
    given: Mapping[str, Any]
    overlays: list[MaskOverlay] = field(default_factory=list)
    """Of the current batch."""

    def before_process(self, request: GenerationRequest, run: Running) -> GenerationRequest:
        """The mask's grey levels matter here."""
        if request.init is None or request.init.mask is None:
            return request
        return replace(request, init=replace(request.init, mask=replace(request.init.mask, round=False)))

    def process(self, draft: Draft, run: Running) -> Draft:
        labels = {argument.name: argument.label.lower() for argument in SoftInpainting.args[1:]}
        run.infotext["Soft inpainting enabled"] = True
        run.infotext.update({f"Soft inpainting {labels[name]}": value for name, value in self.given.items()})
        return draft

    def blend(self, blend: Blend, run: Running) -> Blend:
        """In every step by the noise level; at the end the result stays as it came."""
        if _counts_in_timesteps(run.request.sampler):
            return blend
        if blend.level is None:
            return replace(blend, blended=blend.current)
        repaint = torch.pow(1 - blend.keep, (blend.level**self.settings.power) * self.settings.strength)
        return replace(blend, blended=blend_latents(blend.init_latent, blend.current, repaint, self.settings.detail))

    def post_sample(self, sampled: Sampled, run: Running) -> Sampled:
        self.overlays = []
        if sampled.init_latent is None or sampled.keep is None or run.request.init is None:
            return sampled
        threshold = self.settings.threshold * _mask_factor(1 - sampled.keep, self.settings)
        distances = torch.linalg.vector_norm((sampled.latent - sampled.init_latent).float(), dim=1).cpu().numpy()
        images = _start_images(run.request, run)
        for position, distance in enumerate(distances):
            image = images[min(position, len(images) - 1)]
            change = change_mask(distance, threshold, self.settings.contrast)
            paste_to = run.prepared.paste_to if run.prepared else None
            mask = picture_mask(change, run.request.width, run.request.height, image.size, paste_to)
            self.overlays.append(MaskOverlay(mask, overlay_outside(image, mask)))
        return sampled

    def postprocess_maskoverlay(self, overlay: MaskOverlay, place: PicturePlace, run: Running) -> MaskOverlay:
        return self.overlays[place.position] if place.position < len(self.overlays) else overlay


def blend_latents(first: Tensor, second: Tensor, share: Tensor, detail: float) -> Tensor:
    """Between `first` (share 0) and `second` (share 1), `[B, 4, h, w]` each; share `[h, w]` or `[B, 4, h, w]`.

    Directions and magnitudes of the 4-vectors are interpolated apart from each other, magnitudes with the power
    `detail`, which favours the larger one: a plain mean of two textures is a blur.
    """
    per_cell = share if share.ndim == 2 else share[:, :1]
    mixed = first * (1 - share) + second * share
    length = _lengths(mixed) + _TINY
    wanted = _lengths(first) ** detail * (1 - per_cell) + _lengths(second) ** detail * per_cell
    return mixed * (wanted ** (1 / detail) / length).to(mixed.dtype)


def _counts_in_timesteps(sampler: str) -> bool:
    """DDIM, PLMS, UniPC: they blend before the prediction and never see the start image themselves.

    Without the final blend the part outside the mask would stay noise, so with them the plain blends are kept; only the
    mask is soft.
    """
    return find_sampler(sampler).domain == "timestep"


def _lengths(latent: Tensor) -> Tensor:
    """`[B, 1, h, w]` float64, which large powers need."""
    return torch.linalg.vector_norm(latent, dim=1, keepdim=True).to(torch.float64)


def _mask_factor(repaint: Tensor, settings: Settings) -> np.ndarray:
    """[h, w]: how much the threshold is raised or lowered where the mask says so; 1 without mask influence."""
    plane = repaint if repaint.ndim == 2 else repaint[0, 0]
    covered = 1 - plane.float().clamp(0, 1) ** (settings.strength / 2)
    mixed = 0.5 * (1 - settings.mask_influence) + covered * settings.mask_influence
    return (mixed / (1 + _TINY - mixed)).cpu().numpy()


def _start_images(request: GenerationRequest, run: Running) -> list[Image.Image]:
    """RGBA, at the size of the answer."""
    init, images = request.init, []
    for original in init.images if init else ():
        image = flatten(original, request.options.img2img_background_color)
        if run.prepared and run.prepared.paste_to is None and init and init.resize_mode != ResizeMode.LATENT:
            image = resize_image(init.resize_mode, image, request.width, request.height)
        images.append(image.convert("RGBA"))
    return images
