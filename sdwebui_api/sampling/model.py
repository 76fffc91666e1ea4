"""The model behind a sampler: raw UNet outputs turned into what each sampler domain works with.

A sampler never learns whether its model predicts eps or v; these wrappers know. Preconditioning as in k-diffusion's
`external.py` (Crowson) with sigma_data 1.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from sdwebui_api.sampling.samplers import Domain
from sdwebui_api.sampling.sigma_table import LcmSigmaTable, SigmaTable


class Evaluator(Protocol):
    """The one thing sampling asks of the engine. Met by `engine.model.DiffusionModel` and by the tests' fakes."""

    @property
    def alphas_cumprod(self) -> Tensor:
        """alpha_bar `[1000]`."""

    @property
    def prediction_type(self) -> str:
        """ "epsilon" or "v_prediction"."""

    @property
    def in_channels(self) -> int:
        """4; 9 for inpainting models, 8 for edit models (InstructPix2Pix)."""

    def evaluate(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        *,
        concat: Tensor | None = None,
        control: Any = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        """Raw UNet output `[B, 4, h, w]` for latents `x`, timesteps `t` `[B]` (fractions allowed), context `[B, T, D]`.

        `concat` `[B, C, h, w]` is appended to the channels of x. `control`: of `guidance.ControlSource.at`.
        `vector` `[B, V]`: the label embedding's input of models that have one. Both are left out where there is none.
        """


class GuidedModel(Protocol):
    """A model as guidance sees it. `noise_level` `[B]` is a sigma or a timestep, depending on the domain."""

    def predict(
        self,
        x: Tensor,
        noise_level: Tensor,
        context: Tensor,
        concat: Tensor | None,
        control: Any = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        """What the sampler domain combines: denoised latents or eps. `control`, `vector`: for the evaluator."""

    def to_image(self, x: Tensor, prediction: Tensor, noise_level: Tensor) -> Tensor:
        """The denoised latent that a prediction stands for, for previews and interrupted runs."""

    def progress(self, noise_level: Tensor) -> float:
        """How far from pure noise, in [0, 1): what `refiner_switch_at` is compared with."""


def _over(values: Tensor, like: Tensor) -> Tensor:
    """`[B]` shaped to multiply `[B, C, h, w]`."""
    return values.reshape(-1, *([1] * (like.ndim - 1)))


def _evaluate(
    evaluator: Evaluator,
    x: Tensor,
    t: Tensor,
    context: Tensor,
    concat: Tensor | None,
    control: Any,
    vector: Tensor | None,
) -> Tensor:
    given = {"control": control, "vector": vector}
    more = {name: value for name, value in given.items() if value is not None}
    return evaluator.evaluate(x, t, context, concat=concat, **more)


class SigmaModel:
    """Denoised latents at noise level sigma, from an eps or v model."""

    def __init__(self, evaluator: Evaluator, table: SigmaTable) -> None:
        self._evaluator = evaluator
        self._v_prediction = evaluator.prediction_type == "v_prediction"
        self.table = table

    def predict(
        self,
        x: Tensor,
        noise_level: Tensor,
        context: Tensor,
        concat: Tensor | None,
        control: Any = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        sigma = _over(noise_level, x)
        scale = (sigma**2 + 1) ** 0.5
        t = self.table.sigma_to_t(noise_level)
        output = _evaluate(self._evaluator, x / scale, t.float(), context, concat, control, vector)
        if self._v_prediction:
            return x / scale**2 - output * sigma / scale
        return x - output * sigma

    def to_image(self, x: Tensor, prediction: Tensor, noise_level: Tensor) -> Tensor:
        return prediction

    def progress(self, noise_level: Tensor) -> float:
        nearest = int((self.table.sigmas - noise_level.max()).abs().argmin())
        return (999 - nearest) / 1000


class LcmModel(SigmaModel):
    """Consistency function of an eps model: c_skip and c_out make it the identity at timestep 0. Luo et al. 2023."""

    SIGMA_DATA = 0.5
    TIMESTEP_SCALING = 10.0

    def __init__(self, evaluator: Evaluator, table: LcmSigmaTable) -> None:
        super().__init__(evaluator, table)
        self._v_prediction = False

    def predict(
        self,
        x: Tensor,
        noise_level: Tensor,
        context: Tensor,
        concat: Tensor | None,
        control: Any = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        denoised = super().predict(x, noise_level, context, concat, control, vector)
        scaled_t = _over(self.table.sigma_to_t(noise_level), x) * self.TIMESTEP_SCALING
        norm = scaled_t**2 + self.SIGMA_DATA**2
        return scaled_t / norm**0.5 * denoised + self.SIGMA_DATA**2 / norm * x


class TimestepModel:
    """eps at integer timesteps, in the variance preserving frame."""

    def __init__(self, evaluator: Evaluator, alphas_cumprod: Tensor) -> None:
        self._evaluator = evaluator
        self._v_prediction = evaluator.prediction_type == "v_prediction"
        self.alphas_cumprod = alphas_cumprod.float()

    def predict(
        self,
        x: Tensor,
        noise_level: Tensor,
        context: Tensor,
        concat: Tensor | None,
        control: Any = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        output = _evaluate(self._evaluator, x, noise_level.float(), context, concat, control, vector)
        if not self._v_prediction:
            return output
        alpha = self._alpha(x, noise_level)
        return alpha.sqrt() * output + (1 - alpha).sqrt() * x

    def to_image(self, x: Tensor, prediction: Tensor, noise_level: Tensor) -> Tensor:
        alpha = self._alpha(x, noise_level)
        return (x - (1 - alpha).sqrt() * prediction) / alpha.sqrt()

    def progress(self, noise_level: Tensor) -> float:
        return (999 - int(noise_level.max())) / 1000

    def _alpha(self, x: Tensor, noise_level: Tensor) -> Tensor:
        return _over(self.alphas_cumprod[noise_level.to(torch.long)], x)


def wrap_model(evaluator: Evaluator, domain: Domain, alphas_cumprod: Tensor, *, quantize: bool = False) -> GuidedModel:
    """The wrapper of a sampler domain; `alphas_cumprod` after the options had their say."""
    if domain == "timestep":
        return TimestepModel(evaluator, alphas_cumprod)
    if domain == "lcm":
        return LcmModel(evaluator, LcmSigmaTable(alphas_cumprod))
    return SigmaModel(evaluator, SigmaTable(alphas_cumprod, quantize=quantize))
