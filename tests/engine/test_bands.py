"""Pictures computed in bands of rows are those of the whole maps, and take far less memory."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdwebui_api.engine import bands
from sdwebui_api.engine import vae as vae_module
from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.tiling import wrapped_edges
from sdwebui_api.engine.vae import Vae
from sdwebui_api.errors import Diverged

WIDTHS = (16, 32, 32)


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    found = AutoencoderKL(
        block_out_channels=WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
    )
    for layer in found.modules():  # norms as they come scale by one and add nothing
        if isinstance(layer, nn.GroupNorm):
            nn.init.normal_(layer.weight, 1.0, 0.3)
            nn.init.normal_(layer.bias, 0.0, 0.3)
    return found.eval().requires_grad_(False)


@pytest.fixture(params=[400, 2_000, 17_000, 10**9], ids=["single rows", "few rows", "many rows", "one band"])
def band_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(bands, "BAND_BYTES", request.param)
    monkeypatch.setattr(bands, "STATISTICS_BYTES", request.param)
    return int(request.param)


def _error(found: Tensor, wanted: Tensor) -> float:
    """Root mean square, relative to what was wanted."""
    assert found.shape == wanted.shape
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("size", [(5, 7), (8, 6), (13, 4), (1, 3)])
@pytest.mark.usefixtures("band_bytes")
@torch.no_grad()
def test_decodes_as_the_whole_network_does(network: Any, size: tuple[int, int]) -> None:
    latents = torch.randn(2, 4, *size) * 3
    assert _error(bands.decode(network, latents), network.decode(latents).sample) < 1e-5


@pytest.mark.parametrize("size", [(20, 28), (33, 41), (38, 26), (55, 24)])
@pytest.mark.usefixtures("band_bytes")
@torch.no_grad()
def test_encodes_as_the_whole_network_does(network: Any, size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size) * 2 - 1
    wanted = network.encode(images).latent_dist
    mean, deviation = bands.encode(network, images)
    assert _error(mean, wanted.mean) < 1e-5 and _error(deviation, wanted.std) < 1e-5


@pytest.mark.usefixtures("band_bytes")
@torch.no_grad()
def test_seamless_pictures_are_seamless_in_bands(network: Any) -> None:
    latents, images = torch.randn(1, 4, 7, 5), torch.rand(1, 3, 36, 28)
    plain = bands.decode(network, latents)
    with wrapped_edges(network, True):
        wrapped = bands.decode(network, latents)
        assert _error(wrapped, network.decode(latents).sample) < 1e-5
        assert _error(bands.encode(network, images)[0], network.encode(images).latent_dist.mean) < 1e-5
    assert _error(plain, wrapped) > 1e-3


@torch.no_grad()
def test_either_layout_serves(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND_BYTES", 2_000)
    block = network.decoder.up_blocks[-1].resnets[0]
    last = copy.deepcopy(block).to(memory_format=torch.channels_last)
    x = torch.randn(1, 32, 9, 8)
    wanted = block(x, None)
    for layer in (block, last):
        for given in (x, x.contiguous(memory_format=torch.channels_last)):
            assert _error(bands._resnet(layer, given), wanted) < 1e-5
            assert torch.equal(given, x)


@torch.no_grad()
def test_half_precision_loses_no_more_than_the_whole_way(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND_BYTES", 8_000)
    half = copy.deepcopy(network).to(torch.bfloat16, memory_format=torch.channels_last)
    latents = torch.randn(1, 4, 12, 10).bfloat16()
    exact = copy.deepcopy(half).float().decode(latents.float()).sample
    found, wanted = bands.decode(half, latents), half.decode(latents).sample
    assert found.dtype == torch.bfloat16
    assert 0 < _error(found, exact) < 1.2 * _error(wanted, exact) < 0.1


@pytest.mark.parametrize("height", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.usefixtures("band_bytes")
@torch.no_grad()
def test_a_map_may_be_written_over_while_it_is_read(height: int, wraps: bool) -> None:
    layer = nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular" if wraps else "zeros")
    x = torch.randn(1, 16, height, 5).contiguous(memory_format=torch.channels_last)
    wanted = layer(x)
    for start, stop, band in bands._convolution(layer, lambda a, b, room: room.copy_(x[:, :, a:b]), x):
        x[:, :, start:stop] = band
    torch.testing.assert_close(x, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("band_bytes")
def test_moments_of_values_far_from_zero() -> None:
    """Squares summed in float32 would leave nothing of this variance, nor would one mean for all bands."""
    x = torch.randn(1, 16, 11, 7) + 3000 * torch.randn(1, 16, 1, 1).sign() + torch.arange(11)[:, None]
    groups = x.double().view(4, -1)
    mean, variance = bands._moments(x, 4)
    torch.testing.assert_close(mean.double(), groups.mean(1).repeat_interleave(4), rtol=1e-6, atol=1e-3)
    wanted = groups.var(1, correction=0).repeat_interleave(4)
    torch.testing.assert_close(variance.double(), wanted, rtol=1e-5, atol=0)


def _vae(network: Any, **plan: Any) -> Vae:
    return Vae("key", network, torch.float32, Device(DevicePlan(torch.device("cpu"), **plan)))


def test_small_pictures_are_computed_whole(network: Any) -> None:
    latents, images = torch.randn(2, 4, 16, 16), torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        decoded = torch.cat([network.decode(latent[None]).sample for latent in latents])
        encoded = torch.cat([network.encode(image[None]).latent_dist.mean for image in images])
    assert torch.equal(_vae(network).decode(latents), decoded)
    assert torch.equal(_vae(network).encode(images, None), encoded)


@pytest.mark.parametrize("tiling", [False, True])
def test_large_pictures_are_computed_in_bands(network: Any, tiling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, images, noise = torch.randn(2, 4, 16, 16), torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, 4, 16, 16)
    vae = _vae(network)
    decoded, encoded = vae.decode(latents, tiling=tiling), vae.encode(images, noise, tiling=tiling)
    monkeypatch.setattr(vae_module, "LARGE", 32 * 64 * 64 * 4)
    monkeypatch.setattr(bands, "BAND_BYTES", 20_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "decode", None)
        patch.setattr(network, "encode", None)
        assert _error(vae.decode(latents, tiling=tiling), decoded) < 1e-5
        assert _error(vae.encode(images, noise, tiling=tiling), encoded) < 1e-5


def test_not_a_number_is_noticed_in_bands(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vae_module, "LARGE", 0)
    broken = copy.deepcopy(network)
    broken.decoder.up_blocks[-1].resnets[0].conv1.bias[3] = float("nan")
    with pytest.raises(Diverged):
        _vae(broken).decode(torch.randn(1, 4, 4, 4))


class Held(TorchDispatchMode):
    """Bytes of all tensors that operations took or gave and that still exist, at their most."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self._seen.update(self._storages((args, kwargs, found)))
        self.peak = max(self.peak, sum({each.data_ptr(): each.nbytes() for each in self._seen}.values()))
        return found

    @staticmethod
    def _storages(values: Any) -> Iterator[Any]:
        return (value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor))


def _peak(compute: Callable[[], object]) -> int:
    with torch.no_grad(), Held() as held:
        compute()
    return held.peak


def test_no_more_than_two_maps_at_a_time(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND_BYTES", 64 * 1024)
    weights = sum(parameter.nbytes for parameter in network.parameters())
    size, pixels = (64, 48), 256 * 192
    estimate = bands.peak_bytes(WIDTHS, pixels, torch.float32)
    latents, images = torch.randn(1, 4, *size), torch.rand(1, 3, 256, 192)
    decoding, encoding = _peak(lambda: bands.decode(network, latents)), _peak(lambda: bands.encode(network, images))
    assert 0.6 * estimate < decoding - weights < estimate
    assert encoding < decoding
    assert _peak(lambda: network.decode(latents)) - weights > 1.6 * (decoding - weights)
    assert _peak(lambda: network.encode(images)) - weights > 1.5 * (encoding - weights)
