"""`callback_state` of A1111's samplers, against k-diffusion's loops with a callback written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdwebui_api.sampling.evaluation import Moment
from sdwebui_api.sampling.ode import sample_euler, sample_euler_ancestral
from sdwebui_api.scripting.compat.samplers import KDiffusionSampler, call_back

SIGMAS = torch.tensor([8.0, 3.0, 1.0, 0.0])


def predict(x: torch.Tensor) -> torch.Tensor:
    return 0.3 * x + 0.1


def patched(name: str) -> Any:
    """A sampler whose callback moves the latent and the prediction."""
    sampler = KDiffusionSampler(name)
    sampler.seen = []

    def callback(d: dict[str, Any]) -> None:
        sampler.seen.append((d["i"], float(d["sigma"])))
        d["x"] += 0.5 + d["i"]
        d["denoised"] *= 0.9

    sampler.callback_state = callback
    return sampler


def written_out(x: torch.Tensor, *, direction_first: bool) -> torch.Tensor:
    """Euler steps as in k-diffusion: `sample_euler` works out d before it calls back, `…_ancestral` after."""
    for i in range(len(SIGMAS) - 1):
        denoised = predict(x)
        d = (x - denoised) / SIGMAS[i]
        x, denoised = x + 0.5 + i, denoised * 0.9
        if not direction_first:
            d = (x - denoised) / SIGMAS[i]
        x = x + d * (SIGMAS[i + 1] - SIGMAS[i])
    return x


@pytest.mark.parametrize(("name", "direction_first"), [("Euler", True), ("Euler a", False)])
def test_callback_state(name, direction_first):
    sampler, number = patched(name), iter(range(9))

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return call_back(sampler, x, predict(x), float(sigma), Moment(next(number), 3, 3))

    start = torch.linspace(-2, 2, 16).reshape(1, 4, 2, 2) * SIGMAS[0]
    expected = written_out(start.clone(), direction_first=direction_first)
    noise: Any = None  # neither churn nor eta: nothing is drawn
    if name == "Euler":
        found = sample_euler(denoise, start.clone(), SIGMAS, noise=noise)
    else:
        found = sample_euler_ancestral(denoise, start.clone(), SIGMAS, noise=lambda *_: torch.zeros(()), eta=0.0)
    torch.testing.assert_close(found, expected)
    assert sampler.seen == [(0, 8.0), (1, 3.0), (2, 1.0)]


def test_two_evaluations_a_step_are_one_callback():
    sampler = patched("Heun")
    for number in range(4):
        call_back(sampler, torch.zeros(1), torch.zeros(1), 1.0, Moment(number, 4, 2))
    assert [i for i, _ in sampler.seen] == [0, 1]
