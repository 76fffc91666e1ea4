from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdwebui_api.engine.batcher import Evaluation, _forward
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.networks.control import ControlInput
from sdwebui_api.engine.networks.reference import Reference

WAYS = [(True, False), (False, True), (True, True)]


def inputs(seed: int = 0) -> dict[str, Tensor]:
    """Two rows: a prompt's and a negative prompt's."""
    draw = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(1, 4, 8, 8, generator=draw).expand(2, -1, -1, -1),
        "t": torch.full((2,), 400.0),
        "context": torch.randn(2, 77, 128, generator=draw),
    }


def reference(model: DiffusionModel, way: tuple[bool, bool], weight: float = 1.0, fidelity: float = 0.5, seed: int = 9):
    draw = torch.Generator().manual_seed(seed)
    latents, noise = torch.randn(2, 1, 4, 8, 8, generator=draw).expand(-1, 2, -1, -1, -1)
    network = Reference(*way, weight, fidelity, model.alphas_cumprod)
    prompts = torch.tensor([1.0, 0.0])[:, None, None, None]
    return ControlInput(network, (latents, noise, prompts), torch.ones(2, 1))


@pytest.mark.parametrize("way", WAYS)
def test_the_reference_is_seen_and_the_module_left_as_it_was(tiny: DiffusionModel, way: tuple[bool, bool]) -> None:
    plain = tiny.evaluate(**inputs())
    seen = tiny.evaluate(**inputs(), control=(reference(tiny, way),))
    assert seen.isfinite().all() and (seen - plain).abs().max() > 1e-3
    other = tiny.evaluate(**inputs(), control=(reference(tiny, way, seed=10),))
    assert (seen - other).abs().max() > 1e-4
    assert torch.equal(tiny.evaluate(**inputs()), plain)


@pytest.mark.parametrize("way", WAYS)
def test_full_fidelity_leaves_the_negative_prompt_alone(tiny: DiffusionModel, way: tuple[bool, bool]) -> None:
    plain = tiny.evaluate(**inputs())
    seen = tiny.evaluate(**inputs(), control=(reference(tiny, way, fidelity=1.0),))
    torch.testing.assert_close(seen[1], plain[1], atol=1e-4, rtol=1e-4)
    assert (seen[0] - plain[0]).abs().max() > 1e-3
    loose = tiny.evaluate(**inputs(), control=(reference(tiny, way, fidelity=0.0),))
    assert (loose[1] - plain[1]).abs().max() > 1e-3


@pytest.mark.parametrize("way", WAYS)
def test_weight_zero_is_no_reference(tiny: DiffusionModel, way: tuple[bool, bool]) -> None:
    # The first attention's threshold is 0, which a weight must exceed.
    found = tiny.evaluate(**inputs(), control=(reference(tiny, way, weight=0.0),))
    torch.testing.assert_close(found, tiny.evaluate(**inputs()))


def test_a_reference_equal_to_the_picture_changes_no_attention(tiny: DiffusionModel) -> None:
    """Seeing every feature twice is seeing it once."""
    rows = inputs()
    network = Reference(True, False, 1.0, 0.0, torch.ones(1000))
    own = ControlInput(network, (rows["x"], torch.zeros_like(rows["x"]), torch.ones(2, 1, 1, 1)), torch.ones(2, 1))
    torch.testing.assert_close(tiny.evaluate(**rows, control=(own,)), tiny.evaluate(**rows), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_jobs_share_a_forward_pass(tiny: DiffusionModel, way: tuple[bool, bool]) -> None:
    evaluations = [Evaluation(**inputs(seed), control=(reference(tiny, way, seed=seed),)) for seed in (1, 2)]
    assert evaluations[0].kind == evaluations[1].kind
    with tiny.unet.holding():
        together = _forward(evaluations, tiny.unet)
        alone = [tiny.unet.forward(evaluation) for evaluation in evaluations]
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
