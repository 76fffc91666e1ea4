"""Nearest-neighbour upsampling as the original UNet does it, for latents whose sides do not halve evenly."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sdwebui_api.engine.libraries import IMPORTING


class LdmUpsample(nn.Module):
    """Doubles, convolves, and only then shrinks to the skip connection's size.

    diffusers resizes to the target size before the convolution, which gives other pictures at, say, 520 pixels. The
    order here is that of LDM's Upsample followed by A1111's `TorchHijackForUnet.cat` (sd_hijack_unet.py).
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, hidden_states: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        doubled = self.conv(F.interpolate(hidden_states, scale_factor=2.0, mode="nearest"))
        if output_size is None or tuple(doubled.shape[-2:]) == tuple(output_size):
            return doubled
        return F.interpolate(doubled, size=tuple(output_size), mode="nearest")


def use_ldm_upsampling(unet: nn.Module) -> None:
    """Replace the UNet's upsamplers in place; tensor names stay the same."""
    with IMPORTING:
        from diffusers.models.upsampling import Upsample2D
    for module in unet.modules():
        upsamplers = getattr(module, "upsamplers", None)
        if upsamplers is None:
            continue
        for index, upsampler in enumerate(upsamplers):
            if isinstance(upsampler, Upsample2D):
                upsamplers[index] = LdmUpsample(upsampler.conv)
