"""Attention by products gives what torch's fused kernel gives, sliced or not, alone and inside a UNet."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from benchmarks.make_checkpoint import write_checkpoint
from sdwebui_api.engine import attention
from sdwebui_api.engine.attention import ProductsProcessor, attend_by_products, use_attention
from sdwebui_api.engine.filling import Weights
from sdwebui_api.engine.loading import OpenCheckpoint
from sdwebui_api.engine.upcasting import upcast_attention


def _inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 50, 96), torch.randn(2, 30, 96), torch.randn(2, 30, 96)


def _fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    split = (tensor.unflatten(-1, (4, -1)).transpose(1, 2) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def test_products_equal_the_fused_kernel_in_slices_too(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = _inputs()
    expected = _fused(query, key, value)
    assert torch.allclose(attend_by_products(query, key, value, 4), expected, atol=1e-5)
    monkeypatch.setattr(attention, "SLICE_BYTES", 4 * 30 * 4 * 7)  # 7 queries of 4 heads at a time
    assert torch.allclose(attend_by_products(query, key, value, 4), expected, atol=1e-5)
    monkeypatch.setattr(attention, "SLICE_HEADS", 3)  # of 8
    assert torch.allclose(attend_by_products(query, key, value, 4), expected, atol=1e-5)


def test_products_have_the_derivatives_of_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SLICE_BYTES", 8 * 30 * 4 * 7)
    learned = [tensor.requires_grad_() for tensor in _inputs()]
    wanted = torch.autograd.grad(_fused(*learned).square().sum(), learned)
    found = torch.autograd.grad(attend_by_products(*learned, 4).square().sum(), learned)
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(found, wanted, strict=True))


def test_upcasting_reaches_products() -> None:
    query, key, value = (tensor.bfloat16() for tensor in _inputs())
    expected = _fused(query.float(), key.float(), value.float()).bfloat16()
    assert not torch.equal(attend_by_products(query, key, value, 4), expected)
    with upcast_attention(True, torch.bfloat16):
        found = attend_by_products(query, key, value, 4)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), expected.float(), atol=1e-3)


def test_a_unet_predicts_the_same_with_either(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "small.safetensors", "sd1", width="small")
    unet = OpenCheckpoint(path, None).load_unet(Weights(torch.float32, torch.device("cpu")))
    torch.manual_seed(0)
    x, t, context = torch.randn(2, 4, 16, 16), torch.tensor([900.0, 20.0]), torch.randn(2, 77, 128)
    with torch.inference_mode():
        expected = unet(x, t, context, return_dict=False)[0]
        use_attention(unet, "products")
        found = unet(x, t, context, return_dict=False)[0]
    assert {type(processor) for processor in unet.attn_processors.values()} == {ProductsProcessor}
    assert torch.allclose(found, expected, atol=1e-4)
