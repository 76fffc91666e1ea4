"""Cheap previews: a linear map from latent channels to colours, fitted to each VAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

_CELLS = 16
"""Side of the sample picture, in patches of 8 pixels."""


class Encoder(Protocol):
    def encode(self, images: Tensor, noise: Tensor | None, *, tiling: bool = False) -> Tensor: ...


@dataclass(frozen=True)
class Projection:
    """RGB in [-1, 1] = latent @ weights[:-1] + weights[-1]."""

    weights: Tensor
    """[latent channels + 1, 3] float32 on the CPU."""

    def picture(self, latent: Tensor) -> Image.Image:
        """[4, h, w] -> an RGB image of w by h pixels."""
        cells = latent.detach().float().cpu().permute(1, 2, 0)
        colours = cells @ self.weights[:-1] + self.weights[-1]
        values = ((torch.nan_to_num(colours) + 1.0) * 127.5).clamp(0, 255).round().to(torch.uint8)
        return Image.fromarray(values.numpy(), "RGB")


def fit(vae: Encoder) -> Projection:
    """Encode one picture of smooth random colours and solve for the colours by least squares."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((1, 3, _CELLS // 2, _CELLS // 2), generator=generator) * 2.4 - 1.2
    picture = F.interpolate(coarse, size=(_CELLS * 8, _CELLS * 8), mode="bilinear").clamp(-1, 1)
    latent = vae.encode(picture, None)[0].cpu()
    colours = F.interpolate(picture, size=latent.shape[-2:], mode="area")[0]
    rows = torch.cat([latent.flatten(1), torch.ones((1, latent[0].numel()))]).T
    return Projection(torch.linalg.lstsq(rows, colours.flatten(1).T).solution)
