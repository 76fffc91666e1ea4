from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sdwebui_api.errors import BadRequest
from sdwebui_api.sampling.guidance import (
    Conditioning,
    GuidanceSettings,
    GuidedDenoiser,
    InpaintBlend,
    RefinedModel,
    RefinerSwitch,
    SamplingStopped,
    StepReport,
)
from sdwebui_api.sampling.model import SigmaModel, wrap_model
from sdwebui_api.sampling.sigma_table import SigmaTable
from tests.sampling.fakes import Constant, ConstantUncond, GaussianModel, alphas_cumprod, conditioning

X = torch.ones(2, 4, 4, 4)
SIGMA = torch.tensor(2.0)


def wrap(evaluator: GaussianModel) -> SigmaModel:
    return SigmaModel(evaluator, SigmaTable(alphas_cumprod()))


def denoiser(evaluator: GaussianModel, steers: Conditioning, **changes: object) -> GuidedDenoiser:
    company = {k: changes.pop(k) for k in list(changes) if k in ("blend", "blend_before", "refiner", "on_step")}
    settings = GuidanceSettings(**changes)  # type: ignore[arg-type]
    return GuidedDenoiser(
        wrap(evaluator),
        steers,
        settings,
        steps=4,
        total_steps=4,
        start=X,
        **company,  # type: ignore[arg-type]
    )


def alone(mean: float) -> Tensor:
    """What the model says to one prompt without guidance."""
    return denoiser(GaussianModel(), conditioning(mean, mean), cfg_scale=1.0)(X, SIGMA)


def test_classifier_free_guidance_in_one_call() -> None:
    evaluator = GaussianModel()
    guided = denoiser(evaluator, conditioning(1.0, 2.0, negative=-1.0), cfg_scale=3.0)(X, SIGMA)
    expected = alone(-1.0) + 3.0 * (torch.stack([alone(1.0)[0], alone(2.0)[1]]) - alone(-1.0))
    assert torch.allclose(guided, expected, atol=1e-5)
    assert evaluator.calls == [4]


def test_and_adds_weighted_directions() -> None:
    steers = Conditioning(Constant([[(1.0, 0.5), (2.0, -0.4)], [(3.0, 1.0)]]), ConstantUncond([0.0, 0.0]))
    guided = denoiser(GaussianModel(), steers, cfg_scale=2.0)(X, SIGMA)
    base = alone(0.0)
    assert torch.allclose(guided[0], (base + 2 * (0.5 * (alone(1.0) - base) - 0.4 * (alone(2.0) - base)))[0], atol=1e-5)
    assert torch.allclose(guided[1], (base + 2 * (alone(3.0) - base))[1], atol=1e-5)


def test_v_prediction_denoises_alike() -> None:
    for domain in ("sigma", "timestep"):
        level = torch.tensor([2.0, 2.0]) if domain == "sigma" else torch.tensor([500.0, 500.0])
        context = torch.ones(2, 77, 8)
        eps, v = (
            wrap_model(GaussianModel(kind), domain, alphas_cumprod()).predict(X, level, context, None)  # type: ignore[arg-type]
            for kind in ("epsilon", "v_prediction")
        )
        assert torch.allclose(eps, v, atol=1e-4)


def test_token_counts_that_differ_are_evaluated_apart() -> None:
    evaluator = GaussianModel()
    denoiser(evaluator, conditioning(1.0, 2.0, tokens=77, negative_tokens=154))(X, SIGMA)
    assert evaluator.calls == [2, 2]


def test_batch_cond_uncond_off() -> None:
    evaluator = GaussianModel()
    denoiser(evaluator, conditioning(1.0, 2.0), batch_cond_uncond=False)(X, SIGMA)
    assert evaluator.calls == [2, 2]


@pytest.mark.parametrize(("tokens", "negative_tokens"), [(77, 154), (231, 77)])
def test_padding_by_the_empty_prompt(tokens: int, negative_tokens: int) -> None:
    evaluator = GaussianModel()
    guided = denoiser(
        evaluator, conditioning(1.0, 1.0, tokens=tokens, negative_tokens=negative_tokens), pad_cond_uncond=True
    )
    guided(X, SIGMA)
    assert evaluator.calls == [4] and guided.finish() == {"Pad conds": True}
    assert evaluator.contexts[0].shape[1] == max(tokens, negative_tokens)
    assert (evaluator.contexts[0] == 9.0).any()


def test_padding_v0_cuts_or_repeats() -> None:
    for negative_tokens in (77, 231):
        evaluator = GaussianModel()
        steers = conditioning(1.0, 1.0, tokens=154, negative_tokens=negative_tokens)
        guided = denoiser(evaluator, steers, pad_cond_uncond_v0=True)
        guided(X, SIGMA)
        assert evaluator.contexts[0].shape[1] == 154 and guided.finish() == {"Pad conds v0": True}


def test_ngms_skips_every_other_negative() -> None:
    evaluator = GaussianModel()
    guided = denoiser(evaluator, conditioning(1.0, 1.0, negative=-1.0), s_min_uncond=3.0, cfg_scale=5.0)
    results = [guided(X, SIGMA) for _ in range(3)]
    assert evaluator.calls == [4, 2, 4] and guided.finish() == {"NGMS": 3.0}
    assert torch.allclose(results[1], alone(1.0), atol=1e-6)
    every = denoiser(evaluator, conditioning(1.0, 1.0), s_min_uncond=3.0, s_min_uncond_all=True)
    every(X, SIGMA)
    every(X, torch.tensor(4.0))
    assert evaluator.calls[3:] == [2, 4] and every.finish() == {"NGMS": 3.0, "NGMS all steps": True}


def test_skip_early_cond() -> None:
    evaluator = GaussianModel()
    guided = denoiser(evaluator, conditioning(1.0, 1.0), skip_early_cond=0.3)
    for _ in range(4):
        guided(X, SIGMA)
    assert evaluator.calls == [2, 2, 4, 4] and guided.finish() == {"Skip Early CFG": 0.3}


def test_at_scale_1_the_negative_prompt_is_evaluated_only_for_who_looks_at_it() -> None:
    steers = conditioning(1.0, 2.0, negative=-1.0)
    plain, looking = GaussianModel(), GaussianModel()
    guided = denoiser(plain, steers, cfg_scale=1.0)(X, SIGMA)
    sampler = denoiser(looking, steers, cfg_scale=1.0, needs_uncond=True)
    assert torch.allclose(guided, sampler(X, SIGMA), atol=1e-5)
    assert plain.calls == [2] and looking.calls == [4]
    assert torch.allclose(sampler.unconditional(), alone(-1.0), atol=1e-5)
    weighted = Conditioning(Constant([[(1.0, 0.5)], [(3.0, 1.0)]]), ConstantUncond([0.0, 0.0]))
    assert torch.allclose(
        denoiser(GaussianModel(), weighted, cfg_scale=1.0)(X, SIGMA)[0], ((alone(1.0) + alone(0.0)) / 2)[0], atol=1e-5
    )


def test_edit_model_has_two_scales() -> None:
    evaluator = GaussianModel(in_channels=8)
    steers = replace(conditioning(1.0, 1.0, negative=-1.0, concat=torch.ones(1, 4, 4, 4)), edit_model=True)
    guided = denoiser(evaluator, steers, cfg_scale=3.0, image_cfg_scale=1.5)(X, SIGMA)
    assert evaluator.calls == [6]
    concat = evaluator.concats[0]
    assert concat is not None and (concat[:4] == 1).all() and (concat[4:] == 0).all()
    base = alone(-1.0)
    assert torch.allclose(guided, base + 3.0 * (alone(1.0) - base), atol=1e-5)
    for skips in ({"skip_early_cond": 1.0}, {"s_min_uncond": 3.0, "s_min_uncond_all": True}):
        skipping = denoiser(GaussianModel(in_channels=8), steers, cfg_scale=3.0, image_cfg_scale=1.5, **skips)
        assert torch.equal(skipping(X, SIGMA), guided) and skipping.finish() == {}
    several = replace(steers, cond=Constant([[(1.0, 1.0), (2.0, 1.0)], [(1.0, 1.0)]]))
    with pytest.raises(BadRequest, match="AND"):
        denoiser(evaluator, several, image_cfg_scale=1.5)(X, SIGMA)


def test_inpainting_conditioning_reaches_the_model() -> None:
    evaluator = GaussianModel(in_channels=9)
    denoiser(evaluator, conditioning(1.0, 1.0, concat=torch.ones(2, 5, 4, 4)), s_min_uncond=3.0)(X, SIGMA)
    assert evaluator.concats[0] is not None and evaluator.concats[0].shape == (4, 5, 4, 4)


def test_blend_keeps_the_start_image_outside_the_mask() -> None:
    mask = torch.zeros(4, 4)
    mask[:2] = 1
    blend = InpaintBlend(mask, torch.full_like(X, 7.0))
    guided = denoiser(GaussianModel(), conditioning(1.0, 1.0), blend=blend)(X, SIGMA)
    assert (guided[:, :, :2] == 7.0).all() and not (guided[:, :, 2:] == 7.0).any()
    hooked = replace(blend, hook=lambda latent, init, keep, level: latent * 0 + level)
    assert (denoiser(GaussianModel(), conditioning(1.0, 1.0), blend=hooked)(X, SIGMA) == 2.0).all()


def test_refiner_takes_over_once() -> None:
    first, second = GaussianModel(), GaussianModel()
    switch = RefinerSwitch(0.5, lambda: RefinedModel(wrap(second), conditioning(3.0, 3.0)), {"Refiner": "x"})
    guided = denoiser(first, conditioning(1.0, 1.0), refiner=switch)
    for sigma in (14.0, 10.0, 0.5, 0.1):
        guided(X, torch.tensor(sigma))
    assert len(first.calls) == 2 and len(second.calls) == 2 and guided.finish() == {"Refiner": "x"}


def test_reports_and_stopping() -> None:
    reports: list[StepReport] = []

    def on_step(report: StepReport) -> None:
        reports.append(report)
        if len(reports) == 2:
            raise SamplingStopped

    guided = denoiser(GaussianModel(), conditioning(1.0, 1.0, negative=-1.0), on_step=on_step)
    guided(X, SIGMA)
    guided(X, SIGMA)
    assert [report.step for report in reports] == [0, 1] and reports[0].steps == 4
    assert torch.allclose(reports[0].latent, alone(1.0), atol=1e-6)
    with pytest.raises(SamplingStopped):
        guided(X, SIGMA)
    assert torch.allclose(guided.last_latent, alone(1.0), atol=1e-6)


def test_other_previews() -> None:
    for content, expected in (("Negative prompt", alone(-1.0)), ("Combined", alone(-1.0) * -6 + alone(1.0) * 7)):
        reports: list[StepReport] = []
        steers = conditioning(1.0, 1.0, negative=-1.0)
        denoiser(GaussianModel(), steers, live_preview_content=content, on_step=reports.append)(X, SIGMA)
        assert torch.allclose(reports[0].latent, expected, atol=1e-4)
