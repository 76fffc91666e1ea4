"""The noise levels a discrete-time model was trained on, and the way between sigma and timestep.

After k-diffusion's `DiscreteSchedule` (Crowson, `external.py`): sigma = sqrt((1 - alpha_bar) / alpha_bar), linear
interpolation of log sigma between timesteps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdwebui_api.engine.zero_snr import rescale_zero_terminal_snr

ZERO_TERMINAL_SNR = "Zero Terminal SNR"


def append_zero(sigmas: Tensor) -> Tensor:
    """Every schedule ends at sigma 0: the image."""
    return torch.cat([sigmas, sigmas.new_zeros([1])])


def effective_alphas(alphas_cumprod: Tensor, *, noise_schedule: str = "Default", downcast: bool = False) -> Tensor:
    """alpha_bar `[T]` under the options `sd_noise_schedule` and `use_downcasted_alpha_bar`.

    Downcast keeps float16, so that the sigmas are computed in it too: that rounding is what the option is about.
    """
    alphas = alphas_cumprod.half() if downcast else alphas_cumprod.float()
    return rescale_zero_terminal_snr(alphas.float()) if noise_schedule == ZERO_TERMINAL_SNR else alphas


class SigmaTable:
    """sigmas `[T]`, rising, and the maps between noise level and (fractional) timestep.

    quantize: round timesteps to trained ones (option `enable_quantization`).
    """

    def __init__(self, alphas_cumprod: Tensor, *, quantize: bool = False) -> None:
        self.sigmas = ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5
        self.log_sigmas = self.sigmas.log()
        self.quantize = quantize

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        """Timesteps in [0, T - 1] of noise levels of any shape."""
        log_sigma = sigma.log()
        distances = log_sigma.reshape(1, -1) - self.log_sigmas[:, None]
        if self.quantize:
            return distances.abs().argmin(dim=0).view(sigma.shape)
        below = distances.ge(0).cumsum(dim=0).argmax(dim=0).clamp(max=self.log_sigmas.shape[0] - 2)
        low, high = self.log_sigmas[below], self.log_sigmas[below + 1]
        weight = ((low - log_sigma.reshape(-1)) / (low - high)).clamp(0, 1)
        return ((1 - weight) * below + weight * (below + 1)).view(sigma.shape)

    def t_to_sigma(self, t: Tensor) -> Tensor:
        """Noise levels of (fractional) timesteps in [0, T - 1]."""
        t = t.float()
        low, high, weight = t.floor().long(), t.ceil().long(), t.frac()
        return ((1 - weight) * self.log_sigmas[low] + weight * self.log_sigmas[high]).exp()

    def evenly_spaced(self, steps: int) -> Tensor:
        """`[steps + 1]` sigmas at evenly spaced timesteps, ending in 0: the model's own schedule."""
        t = torch.linspace(len(self.sigmas) - 1, 0, steps, device=self.sigmas.device)
        return append_zero(self.t_to_sigma(t))


class LcmSigmaTable(SigmaTable):
    """The fifty timesteps 19, 39 … 999 that Latent Consistency Models are distilled on. Luo et al. 2023."""

    ORIGINAL_STEPS = 50

    def __init__(self, alphas_cumprod: Tensor) -> None:
        self.stride = len(alphas_cumprod) // self.ORIGINAL_STEPS
        super().__init__(alphas_cumprod[self.stride - 1 :: self.stride].float())

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        distances = sigma.log().reshape(1, -1) - self.log_sigmas[:, None]
        return distances.abs().argmin(dim=0).view(sigma.shape) * self.stride + (self.stride - 1)

    def t_to_sigma(self, t: Tensor) -> Tensor:
        index = (t - (self.stride - 1)) / self.stride
        return super().t_to_sigma(index.float().clamp(min=0, max=len(self.sigmas) - 1))

    def evenly_spaced(self, steps: int) -> Tensor:
        first, last = self.sigma_to_t(self.sigmas[-1]).item(), self.sigma_to_t(self.sigmas[0]).item()
        return append_zero(self.t_to_sigma(torch.linspace(first, last, steps, device=self.sigmas.device)))
