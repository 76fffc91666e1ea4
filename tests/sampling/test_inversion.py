from __future__ import annotations

import pytest
import torch

from sdwebui_api.sampling.inversion import noise_of
from sdwebui_api.sampling.model import SigmaModel
from sdwebui_api.sampling.sigma_table import SigmaTable
from tests.sampling.fakes import DATA_STD, GaussianModel, alphas_cumprod, exact_result

MEAN = 0.3


def model(prediction_type: str = "epsilon") -> SigmaModel:
    return SigmaModel(GaussianModel(prediction_type), SigmaTable(alphas_cumprod()))


def context(mean: float, tokens: int = 77, count: int = 2) -> torch.Tensor:
    return torch.full((count, tokens, 8), mean)


def latent() -> torch.Tensor:
    return MEAN + DATA_STD * torch.randn((2, 4, 16, 16), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_noise_leads_back_to_the_picture(prediction_type: str) -> None:
    found = noise_of(model(prediction_type), latent(), context(MEAN), context(0.0), 1.0, 400, adjust_sigmas=True)
    sigma = float(SigmaTable(alphas_cumprod()).sigmas[-1])
    assert exact_result(found * sigma, sigma, MEAN) == pytest.approx(latent(), abs=0.05)


def test_without_adjustment_the_noise_has_unit_variance() -> None:
    found = noise_of(model(), latent(), context(MEAN), context(0.0), 1.0, 50)
    assert float(found.std()) == pytest.approx(1.0, abs=1e-4)
    assert torch.corrcoef(torch.stack([found.flatten(), latent().flatten()]))[0, 1] > 0.99


def test_guidance_counts() -> None:
    plain = noise_of(model(), latent(), context(MEAN), context(-1.0), 1.0, 20)
    guided = noise_of(model(), latent(), context(MEAN), context(-1.0), 3.0, 20)
    negative = noise_of(model(), latent(), context(MEAN), context(-1.0), 0.0, 20)
    assert not torch.allclose(plain, guided)
    assert torch.allclose(negative, noise_of(model(), latent(), context(-1.0), context(MEAN), 1.0, 20), atol=1e-4)


def test_prompts_of_different_lengths() -> None:
    same = noise_of(model(), latent(), context(MEAN), context(0.0), 2.0, 10)
    longer = noise_of(model(), latent(), context(MEAN, 154), context(0.0), 2.0, 10)
    assert torch.allclose(same, longer, atol=1e-4)


def test_the_caller_hears_of_every_step_and_may_end_it() -> None:
    steps: list[int] = []

    def until_three(step: int) -> bool:
        steps.append(step)
        return step == 3

    noise_of(model(), latent(), context(MEAN), context(0.0), 1.0, 10, on_step=until_three)
    assert steps == [1, 2, 3]
