from __future__ import annotations

import pytest
import torch

from sdwebui_api.prompting.emphasis import apply_emphasis


@pytest.fixture
def z() -> torch.Tensor:
    return torch.rand(3, 77, 8, generator=torch.Generator().manual_seed(1)) + 0.5


@pytest.fixture
def multipliers() -> torch.Tensor:
    return torch.rand(3, 77, generator=torch.Generator().manual_seed(2)) * 2


@pytest.mark.parametrize("mode", ["None", "Ignore"])
def test_modes_without_effect(z: torch.Tensor, multipliers: torch.Tensor, mode: str) -> None:
    assert apply_emphasis(z, multipliers, mode) is z


def test_no_norm_multiplies(z: torch.Tensor, multipliers: torch.Tensor) -> None:
    assert torch.equal(apply_emphasis(z, multipliers, "No norm"), z * multipliers[..., None])


@pytest.mark.parametrize("mode", ["Original", "anything else"])
def test_original_restores_the_mean_of_the_batch(z: torch.Tensor, multipliers: torch.Tensor, mode: str) -> None:
    result = apply_emphasis(z, multipliers, mode)
    weighted = z * multipliers[..., None]
    assert torch.equal(result, weighted * (z.mean() / weighted.mean()))
    assert torch.allclose(result.mean(), z.mean())
    assert not torch.allclose(result[0].mean(), z[0].mean())


def test_counts_weigh_the_mean_as_repeated_rows_would(z: torch.Tensor, multipliers: torch.Tensor) -> None:
    rows = [0, 1, 1, 2, 2, 2]
    repeated = apply_emphasis(z[rows], multipliers[rows], "Original")
    counted = apply_emphasis(z, multipliers, "Original", [1, 2, 3])
    assert torch.allclose(counted[[0, 1, 1, 2, 2, 2]], repeated, atol=1e-6)


def test_a_mean_of_zero_is_no_nan() -> None:
    result = apply_emphasis(torch.ones(1, 2, 2), torch.tensor([[1.0, -1.0]]), "Original")
    assert torch.isfinite(result).all()
