"""Stand-ins for the engine: a model whose denoiser is known exactly, and conditionings made of constants."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdwebui_api.sampling.guidance import Conditioning

DATA_STD = 0.6


def alphas_cumprod() -> Tensor:
    """Stable Diffusion's scaled linear schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


@dataclass
class GaussianModel:
    """The exact eps (or v) predictor of images that are Gaussian: mean = the context's mean, std = DATA_STD.

    The probability flow ODE then has a closed form: see `exact_result`.
    """

    prediction_type: str = "epsilon"
    in_channels: int = 4
    calls: list[int] = field(default_factory=list)
    concats: list[Tensor | None] = field(default_factory=list)
    contexts: list[Tensor] = field(default_factory=list)

    @property
    def alphas_cumprod(self) -> Tensor:
        return alphas_cumprod()

    def evaluate(self, x: Tensor, t: Tensor, context: Tensor, *, concat: Tensor | None = None) -> Tensor:
        assert x.shape[0] == t.shape[0] == context.shape[0]
        assert concat is None or concat.shape[0] == x.shape[0]
        self.calls.append(x.shape[0])
        self.concats.append(concat)
        self.contexts.append(context)
        logs = 0.5 * (1 / alphas_cumprod() - 1).log()
        low = t.floor().long().clamp(0, 999)
        high = t.ceil().long().clamp(0, 999)
        sigma = ((1 - t.frac()) * logs[low] + t.frac() * logs[high]).exp().reshape(-1, 1, 1, 1)
        mean = context.mean(dim=(1, 2)).reshape(-1, 1, 1, 1)
        scale = (sigma**2 + 1) ** 0.5
        noisy = x * scale
        image = mean + (noisy - mean) * DATA_STD**2 / (DATA_STD**2 + sigma**2)
        eps = (noisy - image) / sigma
        return eps if self.prediction_type == "epsilon" else (eps - sigma * image) / scale


def exact_result(x: Tensor, sigma: float, mean: float) -> Tensor:
    """Where the probability flow ODE of `GaussianModel` takes x from `sigma` to 0."""
    return mean + (x - mean) * DATA_STD / (DATA_STD**2 + sigma**2) ** 0.5


@dataclass
class Constant:
    """A conditioning that never changes: `means[i]` are the AND parts (mean, weight) of image i."""

    means: list[list[tuple[float, float]]]
    tokens: int = 77

    def at(self, step: int) -> Constant:
        return self

    @property
    def cond(self) -> Tensor:
        values = [mean for image in self.means for mean, _ in image]
        return torch.tensor(values).reshape(-1, 1, 1).expand(-1, self.tokens, 8).clone()

    @property
    def parts(self) -> list[list[tuple[int, float]]]:
        rows = iter(range(sum(len(image) for image in self.means)))
        return [[(next(rows), weight) for _, weight in image] for image in self.means]


@dataclass
class ConstantUncond:
    values: list[float]
    tokens: int = 77

    def at(self, step: int) -> Tensor:
        return torch.tensor(self.values).reshape(-1, 1, 1).expand(-1, self.tokens, 8).clone()


def conditioning(
    *means: float, negative: float = 0.0, tokens: int = 77, negative_tokens: int = 77, concat: Tensor | None = None
) -> Conditioning:
    """One prompt per image, all with the same negative prompt."""
    return Conditioning(
        Constant([[(mean, 1.0)] for mean in means], tokens),
        ConstantUncond([negative] * len(means), negative_tokens),
        empty_prompt=torch.full((1, 77, 8), 9.0),
        concat=concat,
    )
