"""Products are added to packed weights as they lie, to the same numbers as when they are unpacked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sdwebui_api.engine.packed import can_pack, dense, keep_packed, packed
from sdwebui_api.engine.packed_sums import packed_sum

pytestmark = pytest.mark.skipif(
    not can_pack(torch.device("cpu"), torch.bfloat16), reason="torch was built without oneDNN"
)


def _packed(weight: Tensor) -> Tensor:
    holder = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    keep_packed(holder)
    return packed(holder[0], weight)


@pytest.mark.parametrize(("out", "width", "rank"), [(64, 32, 1), (128, 96, 4), (320, 768, 8), (192, 160, 33)])
@torch.inference_mode()
def test_the_sum_is_that_of_the_unpacked_weight(out: int, width: int, rank: int) -> None:
    torch.manual_seed(0)
    weight, up, down = (torch.randn(shape).bfloat16() for shape in ((out, width), (out, rank), (rank, width)))
    original = _packed(weight)
    total = packed_sum(original, up, down)
    if total is None:
        pytest.skip("this processor packs in another order")
    exact = weight.double() + up.double() @ down.double()
    error = (dense(total).double() - exact).abs()
    assert bool((error <= exact.abs() * 2**-8 + 1e-4).all()), "rounded once"
    assert torch.equal(dense(original), weight), "the checkpoint's own is left alone"


@torch.inference_mode()
def test_weights_that_do_not_fill_blocks_are_left_to_others() -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 24).bfloat16()
    assert packed_sum(_packed(weight), torch.ones(40, 1).bfloat16(), torch.ones(1, 24).bfloat16()) is None


@torch.inference_mode()
def test_factors_of_another_layer_are_left_to_others() -> None:
    weight = torch.ones(64, 32).bfloat16()
    assert packed_sum(_packed(weight), torch.ones(64, 1).bfloat16(), torch.ones(1, 64).bfloat16()) is None
