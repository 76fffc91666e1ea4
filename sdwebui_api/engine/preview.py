"""Cheap previews: a linear map from latent channels to colours, fitted to each VAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

_SIDE = 128
"""Pixels; small, so that even the largest VAE encodes it quickly."""
_RECTANGLES = 24


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
    """Encode one picture of coloured rectangles and solve for the colours by least squares.

    Flat areas with hard edges came closest to real pictures among the patterns tried (noise, gradients, tiles).
    """
    picture = _rectangles()
    latent = vae.encode(picture, None)[0].cpu()
    colours = F.interpolate(picture, size=latent.shape[-2:], mode="area")[0]
    rows = torch.cat([latent.flatten(1), torch.ones((1, latent[0].numel()))]).T
    return Projection(torch.linalg.lstsq(rows, colours.flatten(1).T).solution)


def _rectangles() -> Tensor:
    """[1, 3, _SIDE, _SIDE] in [-1, 1], always the same."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.ones((1, 3, _SIDE, _SIDE))
    # Mostly saturated: with muted colours the fit renders white as grey.
    colours = (torch.rand((_RECTANGLES, 3, 1, 1), generator=generator) * 8 - 4).clamp(-1, 1)
    corners = torch.randint(0, _SIDE * 3 // 4, (_RECTANGLES, 2), generator=generator)
    sizes = torch.randint(8, _SIDE // 2, (_RECTANGLES, 2), generator=generator)
    for colour, (top, left), (height, width) in zip(colours, corners.tolist(), sizes.tolist(), strict=True):
        picture[:, :, top : top + height, left : left + width] = colour
    return picture
