from __future__ import annotations

import pytest
import torch

from sdwebui_api.errors import Cancelled
from sdwebui_api.sampling.guidance import InpaintBlend, StepReport
from sdwebui_api.sampling.names import resolve_names
from sdwebui_api.sampling.noise import ImageNoise
from sdwebui_api.sampling.samplers import SAMPLERS
from sdwebui_api.sampling.session import (
    SamplingOutcome,
    SamplingSettings,
    SamplingStopped,
    sample_from_latent,
    sample_from_noise,
)
from sdwebui_api.sampling.settings import SamplingOptions
from tests.sampling.fakes import GaussianModel, conditioning

SHAPE = (4, 8, 8)
INIT = torch.full((1, *SHAPE), 0.5)


def settings(sampler: str, schedule: str | None = None, *, steps: int = 10, **changes: object) -> SamplingSettings:
    row, chosen = resolve_names(sampler, schedule)
    options = SamplingOptions(**changes.pop("options", {}))  # type: ignore[arg-type]
    return SamplingSettings(row, steps, chosen, options=options, **changes)  # type: ignore[arg-type]


def from_noise(asked: SamplingSettings, evaluator: GaussianModel | None = None, **company: object) -> SamplingOutcome:
    noise = ImageNoise(SHAPE, [1], source="CPU")
    return sample_from_noise(asked, evaluator or GaussianModel(), conditioning(0.5), noise, **company)  # type: ignore[arg-type]


def from_latent(asked: SamplingSettings, evaluator: GaussianModel | None = None, **company: object) -> SamplingOutcome:
    noise = ImageNoise(SHAPE, [1], source="CPU")
    return sample_from_latent(
        asked,
        evaluator or GaussianModel(),
        conditioning(0.5),
        INIT,
        noise.next(),
        noise,
        **company,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("sampler", "schedule", "options", "expected"),
    [
        ("Euler", None, {}, {}),
        ("DPM++ 2M", None, {}, {"Schedule type": "Karras"}),
        ("Euler", "Uniform", {}, {"Schedule type": "Uniform"}),
        (
            "DPM++ 2M",
            "Karras",
            {"sigma_min": 0.1, "sigma_max": 10.0, "rho": 5.0},
            {"Schedule type": "Karras", "Schedule min sigma": 0.1, "Schedule max sigma": 10.0, "Schedule rho": 5.0},
        ),
        (
            "DPM++ 2M",
            "Beta",
            {},
            {"Schedule type": "Beta", "Beta schedule alpha": 0.6, "Beta schedule beta": 0.6},
        ),
        (
            "DPM++ 2M",
            None,
            {"sgm_noise_multiplier": True, "always_discard_next_to_last_sigma": True},
            {"Discard penultimate sigma": True, "Schedule type": "Karras", "SGM noise multiplier": True},
        ),
        ("DPM2", None, {"always_discard_next_to_last_sigma": True}, {"Schedule type": "Karras"}),
        ("Euler a", None, {"sd_noise_schedule": "Zero Terminal SNR"}, {"Noise Schedule": "Zero Terminal SNR"}),
        ("DDIM", "Karras", {"use_downcasted_alpha_bar": True}, {"Downcast alphas_cumprod": True}),
        ("Euler", None, {"refiner_switch_by_sample_steps": True}, {"Refiner switch by sampling steps": True}),
    ],
)
def test_infotext(sampler: str, schedule: str | None, options: dict[str, object], expected: dict[str, object]) -> None:
    outcome = from_noise(settings(sampler, schedule, options=options))
    assert list(outcome.infotext.items()) == list(expected.items())
    assert torch.isfinite(outcome.latent).all()


def test_hires_pass_names_its_schedule_only_when_it_differs() -> None:
    same = settings("DPM++ 2M", hires_pass=True, first_pass_schedule="Karras", denoising_strength=0.5)
    assert from_latent(same).infotext == {}
    other = settings("DPM++ 2M", hires_pass=True, denoising_strength=0.5)
    assert from_latent(other).infotext == {"Hires schedule type": "Karras"}


@pytest.mark.parametrize(
    ("asked", "evaluations"),
    [
        (settings("Euler", denoising_strength=0.6), 7),
        (settings("Euler", denoising_strength=0.0), 1),
        (settings("Euler", denoising_strength=1.0), 10),
        (settings("Euler", denoising_strength=0.4, options={"img2img_fix_steps": True}), 10),
        (settings("Euler", steps=5, denoising_strength=0.3, hires_pass=True), 5),
        (settings("Euler", denoising_strength=0.0, hires_pass=True), 0),
        (settings("DDIM", denoising_strength=0.6), 5),
        (settings("Heun", denoising_strength=0.5), 11),
    ],
)
def test_img2img_runs_a_share_of_the_steps(asked: SamplingSettings, evaluations: int) -> None:
    evaluator = GaussianModel()
    from_latent(asked, evaluator)
    assert len(evaluator.calls) == evaluations


@pytest.mark.parametrize("sampler", [row.name for row in SAMPLERS])
@pytest.mark.parametrize("strength", [0.05, 0.5, 1.0])
def test_img2img_with_every_sampler(sampler: str, strength: float) -> None:
    outcome = from_latent(settings(sampler, denoising_strength=strength, cfg_scale=1.0))
    assert torch.isfinite(outcome.latent).all() and outcome.latent.shape == INIT.shape


def test_extra_noise() -> None:
    for sampler in ("Euler", "DDIM"):
        plain = settings(sampler, denoising_strength=0.5)
        noisy = settings(sampler, denoising_strength=0.5, options={"img2img_extra_noise": 0.1})
        assert from_latent(noisy).infotext == {"Extra noise": 0.1}
        assert not torch.equal(from_latent(noisy).latent, from_latent(plain).latent)


@pytest.mark.parametrize("sampler", ["Euler", "DDIM", "DPM++ SDE"])
def test_inpainting_leaves_the_rest_alone(sampler: str) -> None:
    mask = torch.ones(SHAPE[1:])
    mask[:4] = 0
    blend = InpaintBlend(mask, INIT)
    latent = blend.apply(from_latent(settings(sampler, denoising_strength=0.8), blend=blend).latent)
    assert torch.equal(latent[:, :, 4:], INIT[:, :, 4:]) and not torch.equal(latent[:, :, :4], INIT[:, :, :4])


def test_stopping_gives_the_picture_so_far() -> None:
    def stop(report: StepReport) -> None:
        if report.step == 3:
            raise SamplingStopped

    evaluator = GaussianModel()
    outcome = from_noise(settings("Euler"), evaluator, on_step=stop)
    assert outcome.stopped and len(evaluator.calls) == 4
    assert abs(float(outcome.latent.mean()) - 0.5) < 0.2
    last = from_noise(settings("Euler", steps=4), on_step=stop)
    assert not last.stopped, "nothing is left to stop after the last evaluation"


def test_other_exceptions_pass_through() -> None:
    def cancel(report: StepReport) -> None:
        raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        from_noise(settings("Euler"), on_step=cancel)


def test_progress_of_second_order_samplers_counts_steps() -> None:
    reports: list[StepReport] = []
    from_noise(settings("Heun", steps=5), on_step=reports.append)
    assert [report.step for report in reports] == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert {report.steps for report in reports} == {5}


def test_options_are_read_by_name_and_coerced() -> None:
    options = SamplingOptions.from_options({"uni_pc_order": 2.0, "s_noise": None, "eta_ddim": 1, "unrelated": "x"})
    assert options.uni_pc_order == 2 and isinstance(options.uni_pc_order, int)
    assert options.s_noise == 1.0 and options.eta_ddim == 1.0


def test_whole_numbers_stay_whole_in_the_infotext() -> None:
    """A1111 stores what the client wrote: `Schedule rho: 5`, not 5.0."""
    options = SamplingOptions.from_options({"rho": 5, "sigma_max": 10.0, "eta_ancestral": "0.5"})
    infotext = from_noise(settings("DPM++ 2S a", options=vars(options))).infotext
    shown = {"Schedule type": "Karras", "Schedule max sigma": 10.0, "Schedule rho": 5, "Eta": 0.5}
    assert {name: repr(value) for name, value in infotext.items()} == {n: repr(v) for n, v in shown.items()}


def test_one_noise_for_the_whole_batch_on_request() -> None:
    plain = from_noise(settings("DPM++ SDE"))
    shared = from_noise(settings("DPM++ SDE", options={"no_dpmpp_sde_batch_determinism": True}))
    assert not torch.equal(plain.latent, shared.latent)


def test_one_noise_for_the_whole_batch_spans_the_steps_that_are_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    spans: list[float] = []

    def recorded(x: torch.Tensor, sigmas: torch.Tensor, *_seeds: object, **_how: object) -> object:
        spans.append(float(sigmas.max()))
        return lambda *_levels: torch.zeros_like(x)

    monkeypatch.setattr("sdwebui_api.sampling.session.BrownianNoise", recorded)
    from_latent(settings("DPM++ SDE", denoising_strength=0.5))
    from_latent(settings("DPM++ SDE", denoising_strength=0.5, options={"no_dpmpp_sde_batch_determinism": True}))
    assert spans[0] > 14 > spans[1]


def test_downcast_alphas_are_rounded_where_roots_are_taken() -> None:
    """As A1111's DDIM takes them, in float16: 1 - alpha_bar of the second timestep rounds by some 0.01 %."""
    plain = from_noise(settings("DDIM", steps=5)).latent
    downcast = from_noise(settings("DDIM", steps=5, options={"use_downcasted_alpha_bar": True})).latent
    assert 1e-5 < float((plain - downcast).abs().max()) < 0.05
