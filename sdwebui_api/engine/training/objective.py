"""What is learned: to predict the noise in a picture, as the model itself was trained (Ho et al. 2020, DDPM)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdwebui_api.engine.batcher import Evaluation

if TYPE_CHECKING:
    from sdwebui_api.engine.model import DiffusionModel, UNet
    from sdwebui_api.engine.training.dataset import Batch


class Objective:
    """The mean squared error of a frozen UNet's prediction at random timesteps, with a random stream of its own."""

    def __init__(self, model: DiffusionModel, unet: UNet, seed: int) -> None:
        self._unet = unet
        self._device = model.device
        self._alphas_cumprod = model.alphas_cumprod
        self._predicts_v = model.prediction_type == "v_prediction"
        self._random = torch.Generator().manual_seed(seed)

    def loss(self, batch: Batch, context: Tensor) -> Tensor:
        """A scalar, differentiable in `context` [B, 77n, D] and in what hangs in the UNet. Call while holding it."""
        clean = batch.latents.to(self._device)
        t = torch.randint(len(self._alphas_cumprod), (len(clean),), generator=self._random)
        noise = torch.randn(clean.shape, generator=self._random).to(self._device)
        kept = self._alphas_cumprod[t.to(self._device)].view(-1, 1, 1, 1)
        signal, sigma = kept.sqrt(), (1 - kept).sqrt()
        target = signal * noise - sigma * clean if self._predicts_v else noise
        evaluation = Evaluation(signal * clean + sigma * noise, t.to(self._device, torch.float32), context)
        error = (self._unet.forward(evaluation) - target).square()
        return (error if batch.weights is None else error * batch.weights.to(error)).mean()
