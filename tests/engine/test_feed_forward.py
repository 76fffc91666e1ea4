"""Sliced feed-forward layers compute what diffusers' do, and hold less."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sdwebui_api.engine import feed_forward
from sdwebui_api.engine.feed_forward import SlicedFeedForward, keep_feed_forwards_small


def _pair(width: int = 32) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = FeedForward(width).eval().requires_grad_(False)
    holder = nn.Sequential(copy.deepcopy(plain))
    keep_feed_forwards_small(holder)
    return plain, holder[0]


@pytest.mark.parametrize("rows", [1, 7, 64, 65], ids=str)
def test_computes_what_the_layer_of_diffusers_does(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, sliced = _pair()
    assert type(sliced) is SlicedFeedForward
    x = torch.randn(2, rows, 32)
    with torch.inference_mode():
        wanted = plain(x)
        assert torch.allclose(sliced(x), wanted, atol=1e-6)
        monkeypatch.setattr(feed_forward, "SLICE_BYTES", 1)
        monkeypatch.setattr(feed_forward, "SLICE_ROWS", 16)
        found = sliced(x)
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted, atol=1e-6)


def test_is_differentiable() -> None:
    plain, sliced = _pair()
    x = torch.randn(2, 5, 32)
    gradients = []
    for layer in (plain, sliced):
        learned = x.clone().requires_grad_()
        layer(learned).square().sum().backward()
        assert learned.grad is not None
        gradients.append(learned.grad)
    assert torch.equal(gradients[0], gradients[1])


def test_leaves_the_input_alone() -> None:
    _, sliced = _pair()
    x = torch.randn(3, 5, 32)
    before = x.clone()
    with torch.inference_mode():
        sliced(x)
    assert torch.equal(x, before)


def test_layers_of_another_kind_stay_what_they_are() -> None:
    holder = nn.Sequential(FeedForward(8, activation_fn="gelu"), FeedForward(8, final_dropout=True))
    keep_feed_forwards_small(holder)
    assert all(type(layer) is FeedForward for layer in holder)


class _Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    nbytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self.nbytes = max(self.nbytes, found.nbytes)
        return found


def test_the_wide_middle_never_exists_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, sliced = _pair(64)
    monkeypatch.setattr(feed_forward, "SLICE_BYTES", 2**16)
    monkeypatch.setattr(feed_forward, "SLICE_ROWS", 16)
    x = torch.randn(1, 1024, 64)
    made = []
    for layer in (plain, sliced):
        with torch.inference_mode(), _Largest() as largest:
            layer(x)
        made.append(largest.nbytes)
    assert made == [1024 * 64 * 8 * 4, x.nbytes]
