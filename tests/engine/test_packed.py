"""Packed weights compute what plain ones do, wherever layers are read, changed, wrapped or differentiated."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.make_checkpoint import write_checkpoint
from sdwebui_api.engine.filling import Weights
from sdwebui_api.engine.loading import OpenCheckpoint
from sdwebui_api.engine.packed import (
    PackedConv2d,
    PackedLinear,
    PointwiseConv2d,
    can_pack,
    dense,
    keep_packed,
    packed,
    packs,
)
from sdwebui_api.engine.tiling import wrapped_edges

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(not can_pack(CPU, torch.bfloat16), reason="torch was built without oneDNN")

LAYERS = {
    "linear": (lambda: nn.Linear(40, 24), (3, 7, 40)),
    "linear without bias": (lambda: nn.Linear(40, 24, bias=False), (5, 40)),
    "convolution": (lambda: nn.Conv2d(8, 24, 3, padding=1), (2, 8, 9, 7)),
    "strided": (lambda: nn.Conv2d(8, 24, 3, stride=2, padding=1), (2, 8, 9, 7)),
    "few channels": (lambda: nn.Conv2d(9, 5, 3, padding=1), (1, 9, 6, 6)),
}


def _pair(kind: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """A plain layer, the same one packed, and an input."""
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    plain = make().bfloat16().requires_grad_(False)
    holder = nn.Sequential(copy.deepcopy(plain))
    keep_packed(holder)
    layer = holder[0]
    layer.weight = nn.Parameter(packed(layer, layer.weight), requires_grad=False)
    return plain, layer, torch.randn(shape).bfloat16()


def _assert_alike(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    # bf16 has eight bits; sums may be taken in another order.
    torch.testing.assert_close(found, wanted, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("kind", LAYERS)
def test_computes_what_the_plain_layer_does(kind: str) -> None:
    plain, layer, x = _pair(kind)
    assert layer.weight.is_mkldnn and isinstance(layer, PackedLinear | PackedConv2d)
    with torch.inference_mode():
        _assert_alike(layer(x), plain(x))
        _assert_alike(layer(x[:1]), plain(x[:1]))
        if x.ndim == 4:
            _assert_alike(layer(x.to(memory_format=torch.channels_last)), plain(x))
        else:
            _assert_alike(layer(x.transpose(0, -2)), plain(x.transpose(0, -2)))


@pytest.mark.parametrize("kind", LAYERS)
def test_gives_its_weight_back_exactly(kind: str) -> None:
    plain, layer, _ = _pair(kind)
    assert torch.equal(dense(layer.weight), plain.weight)
    assert layer.weight.nbytes == plain.weight.nbytes and dense(plain.weight) is plain.weight


@pytest.mark.parametrize("kind", LAYERS)
def test_serves_inputs_that_packed_products_cannot(kind: str) -> None:
    plain, layer, x = _pair(kind)
    wanted = x.clone().requires_grad_()
    plain(wanted).float().square().sum().backward()
    learned = x.clone().requires_grad_()
    layer(learned).float().square().sum().backward()
    _assert_alike(learned.grad, wanted.grad)


def test_wraps_around_the_edges() -> None:
    plain, layer, x = _pair("convolution")
    for module in (plain, layer):
        assert module.padding_mode == "zeros"
    with torch.inference_mode(), wrapped_edges(plain, True), wrapped_edges(layer, True):
        _assert_alike(layer(x), plain(x))
        rolled = layer(x.roll(3, dims=-1)).roll(-3, dims=-1)
        _assert_alike(rolled, layer(x))


def test_a_plain_weight_serves_too() -> None:
    plain, layer, x = _pair("linear")
    layer.weight = nn.Parameter(plain.weight * 2, requires_grad=False)
    _assert_alike(layer(x), nn.functional.linear(x, plain.weight * 2, plain.bias))


def test_nothing_else_is_packed() -> None:
    kept = nn.Sequential(nn.LayerNorm(8), nn.Embedding(3, 8), nn.MultiheadAttention(8, 2), nn.Conv2d(8, 8, 1))
    assert not keep_packed(kept) and not any(map(packs, kept.modules()))
    assert not can_pack(CPU, torch.float32) and not can_pack(torch.device("cuda"), torch.bfloat16)


@pytest.fixture(scope="module")
def unets(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, nn.Module]:
    """A small UNet from a file, plain and packed."""
    path: Path = write_checkpoint(tmp_path_factory.mktemp("models") / "m.safetensors", "sd1", width="small")
    plain, kept = (
        OpenCheckpoint(path, None).load_unet(Weights(torch.bfloat16, CPU, packed=wanted)) for wanted in (False, True)
    )
    return plain, kept


def test_a_loaded_unet_is_packed_and_predicts_the_same(unets: tuple[nn.Module, nn.Module]) -> None:
    plain, kept = unets
    weights = {name: dense(tensor) for name, tensor in kept.state_dict().items()}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in plain.state_dict().items())
    layers = [layer for layer in kept.modules() if packs(layer)]
    assert len(layers) > 100 and all(layer.weight.is_mkldnn for layer in layers)
    torch.manual_seed(1)
    x = torch.randn(2, 4, 16, 16).bfloat16()
    context = torch.randn(2, 77, plain.config.cross_attention_dim).bfloat16()
    arguments = (x, torch.tensor([500, 3]), context)
    with torch.inference_mode():
        wanted, found = (unet(*arguments, return_dict=False)[0].float() for unet in unets)
    error = (found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
    assert error < 0.03


@pytest.mark.parametrize("side", [4, 32], ids=["small map", "large map"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_convolutions_of_one_pixel_compute_what_plain_ones_do(side: int, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(48, 64, 1).bfloat16().requires_grad_(False)
    holder = nn.Sequential(copy.deepcopy(plain))
    assert keep_packed(holder) == {}, "its weight stays plain"
    layer = holder[0]
    assert type(layer) is PointwiseConv2d and not packs(layer)
    x = torch.randn(2, 48, side, side).bfloat16().to(memory_format=layout)
    found = layer(x)
    _assert_alike(found, plain(x))
    assert found.is_contiguous(memory_format=layout)


def test_other_convolutions_of_one_pixel_stay_what_they_are() -> None:
    holder = nn.Sequential(nn.Conv2d(8, 8, 1, stride=2), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 1, padding=1))
    keep_packed(holder)
    assert all(type(layer) is nn.Conv2d for layer in holder)
