"""Every sampler against the exact solution for Gaussian data, and what it does with noise."""

from __future__ import annotations

import pytest
import torch

from sdwebui_api.errors import Diverged
from sdwebui_api.sampling.dpm_solver import sample_dpm_adaptive
from sdwebui_api.sampling.noise import ImageNoise
from sdwebui_api.sampling.samplers import SAMPLERS, Sampler
from sdwebui_api.sampling.session import SamplingOutcome, SamplingSettings, sample_from_noise
from sdwebui_api.sampling.settings import SamplingOptions
from tests.sampling.fakes import DATA_STD, GaussianModel, conditioning, exact_result

SHAPE = (4, 8, 8)
MEAN = 0.5
DETERMINISTIC = {
    "DPM++ 2M": 0.01,
    "Euler": 0.12,
    "LMS": 0.05,
    "Heun": 0.02,
    "DPM2": 0.02,
    "DDIM": 0.12,
    "PLMS": 0.06,
    "UniPC": 0.04,
    "Restart": 0.04,
}


def row(name: str) -> Sampler:
    return next(row for row in SAMPLERS if row.name == name)


def run(name: str, seeds: list[int], *, steps: int = 15, **changes: object) -> SamplingOutcome:
    settings = SamplingSettings(row(name), steps, cfg_scale=1.0, **changes)  # type: ignore[arg-type]
    noise = ImageNoise(SHAPE, seeds, source="CPU")
    return sample_from_noise(settings, GaussianModel(), conditioning(*[MEAN] * len(seeds)), noise)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_ode_samplers_reach_the_exact_solution(name: str) -> None:
    steps = 19 if name == "Restart" else 40
    start = ImageNoise(SHAPE, [1], source="CPU").next()
    sigma = 14.6146
    timesteps = row(name).domain == "timestep"
    exact = exact_result(start * (1 + sigma**2) ** 0.5 if timesteps else start * sigma, sigma, MEAN)
    outcome = run(name, [1], steps=steps)
    assert float((outcome.latent - exact).abs().max()) < DETERMINISTIC[name]


@pytest.mark.parametrize("name", [sampler.name for sampler in SAMPLERS])
def test_samples_have_the_data_distribution(name: str) -> None:
    latent = run(name, list(range(12)), steps=25).latent
    assert torch.isfinite(latent).all() and latent.dtype == torch.float32
    if name == "DDIM CFG++":  # a guidance scale of 1 is 1/12.5 of the way to the prompt
        return
    assert float(latent.mean()) == pytest.approx(MEAN, abs=0.08)
    if name != "LCM":  # a consistency sampler of a model that is none
        assert float(latent.std()) == pytest.approx(DATA_STD, abs=0.12)


@pytest.mark.parametrize("name", [sampler.name for sampler in SAMPLERS if sampler.name != "DPM adaptive"])
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    together, alone = run(name, [5, 6], steps=6).latent[1], run(name, [6], steps=6).latent[0]
    assert torch.allclose(together, alone, atol=1e-4)
    assert not torch.allclose(together, run(name, [7], steps=6).latent[0], atol=1e-2)


@pytest.mark.parametrize("name", ["Euler a", "DPM2 a", "DPM++ 2S a", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 3M SDE"])
def test_eta_0_takes_the_noise_away(name: str) -> None:
    exact = exact_result(ImageNoise(SHAPE, [1], source="CPU").next() * 14.6146, 14.6146, MEAN)
    outcome = run(name, [1], steps=40, eta=0.0)
    assert outcome.infotext["Eta"] == 0.0
    assert float((outcome.latent - exact).abs().max()) < 0.15


def test_eta_from_options_and_ddim() -> None:
    options = SamplingOptions(eta_ddim=0.5, eta_ancestral=0.7)
    assert run("Euler a", [1], options=options).infotext == {"Eta": 0.7}
    assert run("DDIM", [1], options=options).infotext == {"Eta DDIM": 0.5}
    assert run("DDIM", [1], options=options, eta=0.0).infotext == {}
    assert run("Euler", [1], options=options).infotext == {}


def test_churn_changes_the_picture_but_not_the_infotext() -> None:
    plain, churned = run("Euler", [1]), run("Euler", [1], s_churn=5.0, s_tmin=0.1, s_tmax=10.0, s_noise=1.02)
    assert churned.infotext == {} and not torch.equal(plain.latent, churned.latent)


def test_a_churn_option_wins_and_is_noted() -> None:
    options = SamplingOptions(s_churn=3.0, s_tmax=8.0)
    outcome = run("Euler", [1], options=options, s_churn=5.0)
    assert outcome.infotext == {"Sigma churn": 3.0, "Sigma tmax": 8.0}
    assert run("Euler a", [1], options=options).infotext == {}


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 20, 40])
@pytest.mark.parametrize("name", ["UniPC", "PLMS", "DPM fast", "Restart", "LMS", "DPM++ 3M SDE"])
def test_any_number_of_steps(name: str, steps: int) -> None:
    assert torch.isfinite(run(name, [1], steps=steps).latent).all()


@pytest.mark.parametrize("variant", ["bh1", "bh2", "vary_coeff"])
@pytest.mark.parametrize("skip", ["time_uniform", "time_quadratic", "logSNR"])
def test_unipc_variants(variant: str, skip: str) -> None:
    start = ImageNoise(SHAPE, [1], source="CPU").next()
    exact = exact_result(start * (1 + 14.6146**2) ** 0.5, 14.6146, MEAN)
    for order, final in [(1, True), (2, True), (3, True), (3, False)]:
        options = SamplingOptions(
            uni_pc_variant=variant, uni_pc_skip_type=skip, uni_pc_order=order, uni_pc_lower_order_final=final
        )
        latent = run("UniPC", [1], steps=40, options=options).latent
        assert float((latent - exact).abs().max()) < (0.4 if order == 1 else 0.25)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_dpm_adaptive_gives_up_on_numbers_that_overflow(value: float) -> None:
    """It went on for ever: no step is small enough."""
    zeros = torch.zeros(1, 4, 2, 2)
    with pytest.raises(Diverged):
        sample_dpm_adaptive(
            lambda x, sigma: x * value, zeros + 1, torch.linspace(10.0, 0.1, 5), noise=lambda sigma, sigma_next: zeros
        )
