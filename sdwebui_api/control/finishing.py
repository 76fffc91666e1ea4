"""What units do after the UNet or after the VAE: keep what is not repainted, keep colours, keep lightness.

Follows the ControlNet extension 1.1.455: `scripts/hook.py` (post-processing of the prediction) and
`scripts/controlnet.py` (`post_processors`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from sdwebui_api.control.passes import Finish
from sdwebui_api.control.unit import ControlUnit
from sdwebui_api.sampling.rows import Row

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import Picture
    from sdwebui_api.engine.model import DiffusionModel

PictureFinish = Callable[[Tensor], Tensor]
"""A decoded picture `[3, H, W]` in [0, 1] -> what the client gets."""


def latent_finish(unit: ControlUnit, hints: Tensor, model: DiffusionModel, *, hires_pass: bool) -> Finish | None:
    """For `inpaint_only` and `tile_colorfix`; None for the others. hints: `[N, 3|4, H, W]` in [0, 1]."""
    name = unit.module.name
    if "inpaint_only" in name and hints.shape[1] == 4:
        mask = torch.nn.functional.max_pool2d(hints[:, 3:4], (10, 10), stride=(8, 8), padding=1)
        return Restoration(model, _encoded(model, hints), unit.weight, mask=mask.to(model.device))
    if "colorfix" in name:
        radius = int(unit.threshold_a) * (2 if hires_pass else 1)
        sharpness = unit.threshold_b * 0.01 if "+sharp" in name else None
        return Restoration(model, _encoded(model, hints), unit.weight, radius=radius, sharpness=sharpness)
    return None


def _encoded(model: DiffusionModel, hints: Tensor) -> Tensor:
    return model.encode(hints[:, :3] * 2.0 - 1.0, None)


class Restoration:
    """Changes the picture that a prediction stands for, and gives back the prediction that stands for the result."""

    def __init__(
        self,
        model: DiffusionModel,
        latents: Tensor,
        weight: float,
        *,
        mask: Tensor | None = None,
        radius: int = 0,
        sharpness: float | None = None,
    ) -> None:
        self._alphas = model.alphas_cumprod
        self._v_prediction = model.prediction_type == "v_prediction"
        self._latents = latents
        self._weight = min(max(weight, 0.0), 1.0)
        self._mask = mask
        self._radius = radius
        self._sharpness = sharpness

    def __call__(self, x: Tensor, t: Tensor, output: Tensor, rows: Sequence[Row]) -> Tensor:
        alpha = self._alphas[t.float().round().long().to(self._alphas.device)].to(output)[:, None, None, None]
        x = x.to(output)
        if self._v_prediction:
            clean = alpha.sqrt() * x - (1 - alpha).sqrt() * output
        else:
            clean = (x - (1 - alpha).sqrt() * output) / alpha.sqrt()
        clean = self._changed(clean, rows)
        noise = (x - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        changed = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean if self._v_prediction else noise
        return changed * self._weight + output * (1 - self._weight)

    def noised(self, noise: Tensor) -> Tensor:
        """Start noise `[B, 4, h, w]` with the original in it, as after the last timestep of training.

        As the extension (scripts/controlnet.py, HackedImageRNG): what LaMa put into the hole shows through from the
        beginning. Of other shapes: unchanged.
        """
        if noise.shape[1:] != self._latents.shape[1:]:
            return noise
        alpha = self._alphas[-1].to(noise)
        original = self._latents[[row % len(self._latents) for row in range(len(noise))]].to(noise)
        return alpha.sqrt() * original + (1 - alpha).sqrt() * noise

    def _changed(self, clean: Tensor, rows: Sequence[Row]) -> Tensor:
        index = [row.image % len(self._latents) for row in rows]
        original = self._latents[index].to(clean)
        if self._mask is not None:
            mask = self._mask[index].to(clean)
            return clean * mask + original * (1 - mask)
        clean = clean - _blurred(clean, self._radius) + _blurred(original, self._radius)
        if self._sharpness is None:
            return clean
        softer = self._sharpness * _blurred(clean, self._radius) + (1 - self._sharpness) * clean
        prompts = torch.tensor([row.prompt for row in rows], device=clean.device)[:, None, None, None]
        return torch.where(prompts, clean, softer)


def _blurred(latent: Tensor, radius: int) -> Tensor:
    """The mean over a square, the border repeated."""
    padded = torch.nn.functional.pad(latent, (radius,) * 4, mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, 2 * radius + 1, stride=1)


def picture_finish(unit: ControlUnit, final_map: Picture, blur: int = 7) -> PictureFinish | None:
    """For `inpaint_only` and `recolor_*`; None for the others. `final_map`: of the last pass, uint8 `[H, W, 3|4]`.

    blur: pixels over which repainted and kept parts mix (the extension's option `control_net_inpaint_blur_sigma`).
    """
    name = unit.module.name
    if "inpaint_only" in name and final_map.shape[2] == 4:
        mask = cv2.dilate(final_map[:, :, 3].astype(np.float32) / 255.0, np.ones((blur, blur), dtype=np.uint8))
        soft = torch.from_numpy(np.asarray(cv2.blur(mask, (blur, blur))))
        kept = torch.from_numpy(final_map[:, :, :3].astype(np.float32) / 255.0).permute(2, 0, 1)
        return lambda picture: _mixed(picture, kept, soft)
    if name == "recolor_luminance":
        return lambda picture: _with_channel(picture, final_map[:, :, 0], cv2.COLOR_RGB2LAB, cv2.COLOR_LAB2RGB, 0)
    if name == "recolor_intensity":
        return lambda picture: _with_channel(picture, final_map[:, :, 0], cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB, 2)
    return None


def _mixed(picture: Tensor, kept: Tensor, mask: Tensor) -> Tensor:
    if picture.shape[-2:] != mask.shape:
        return picture
    mask = mask.to(picture)
    return (mask * picture.clamp(0, 1) + (1 - mask) * kept.to(picture)).clamp(0, 1)


def _with_channel(picture: Tensor, channel: Picture, there: int, back: int, index: int) -> Tensor:
    """One channel of another colour space taken from the map."""
    if picture.shape[-2:] != channel.shape:
        return picture
    image = (picture.detach().float().cpu().numpy().transpose(1, 2, 0) * 255).clip(0, 255).astype(np.uint8)
    converted = np.array(cv2.cvtColor(image, there))
    converted[:, :, index] = channel
    image = np.asarray(cv2.cvtColor(converted, back))
    return torch.from_numpy((image.astype(np.float32) / 255.0).transpose(2, 0, 1)).clamp(0, 1).to(picture)
