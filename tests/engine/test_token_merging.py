"""Token merging: what merges, what comes back, and that the UNet is left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.make_checkpoint import write_checkpoint
from sdwebui_api.engine.filling import Weights
from sdwebui_api.engine.loading import OpenCheckpoint
from sdwebui_api.engine.token_merging import merging_tokens, plan_merge


def test_the_tokens_most_like_a_destination_merge_into_it() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, 8)  # 4x4; destinations are tokens 0, 2, 8 and 10
    x[0, 5] = 3 * x[0, 10]  # the same direction: as like as can be
    x[1, 1] = x[1, 2]
    plan = plan_merge(x, (4, 4), ratio=1 / 16)
    merged = plan.merge(x)
    assert merged.shape == (2, 15, 8)
    assert torch.allclose(merged[0, -1], 2 * x[0, 10])
    assert torch.allclose(merged[1, -3], x[1, 2])
    whole = plan.unmerge(merged)
    assert torch.allclose(whole[0, 5], whole[0, 10])
    assert torch.allclose(whole[:, [3, 4, 6, 7, 9, 15]], x[:, [3, 4, 6, 7, 9, 15]])


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (2, 7)])
def test_nothing_merged_changes_nothing_and_never_more_than_there_is(size: tuple[int, int]) -> None:
    x = torch.randn(1, size[0] * size[1], 4)
    plan = plan_merge(x, size, ratio=0.0)
    assert torch.equal(plan.unmerge(plan.merge(x)), x)
    plan = plan_merge(x, size, ratio=0.9)
    destinations = (size[0] // 2) * (size[1] // 2)
    assert plan.merge(x).shape[1] == max(destinations, x.shape[1] - int(0.9 * x.shape[1]))
    assert plan.unmerge(plan.merge(x)).shape == x.shape


@pytest.fixture
def unet(tmp_path: Path) -> Any:
    path = write_checkpoint(tmp_path / "small.safetensors", "sd1", width="small")
    return OpenCheckpoint(path, None).load_unet(Weights(torch.float32, torch.device("cpu")))


def test_a_unet_predicts_a_little_differently_inside_and_the_same_after(unet: Any) -> None:
    torch.manual_seed(0)
    x, t, context = torch.randn(2, 4, 16, 24), torch.tensor([500.0, 500.0]), torch.randn(2, 77, 128)
    with torch.inference_mode():
        plain = unet(x, t, context, return_dict=False)[0]
        with merging_tokens(unet, 0.5, (16, 24)):
            merged = unet(x, t, context, return_dict=False)[0]
        with pytest.raises(ValueError, match="inside"), merging_tokens(unet, 0.5, (16, 24)):
            raise ValueError("inside")
        assert torch.equal(unet(x, t, context, return_dict=False)[0], plain)
    difference = (merged - plain).norm() / plain.norm()
    assert 1e-3 < float(difference) < 0.5
