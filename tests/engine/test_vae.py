from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.preview import fit
from sdwebui_api.engine.tiling import wrapped_edges
from sdwebui_api.engine.vae import Vae
from sdwebui_api.errors import OutOfMemory, SdWebUIError


class FragileAutoencoder(nn.Module):
    """Gives not-a-number in every precision but `good`."""

    def __init__(self, good: torch.dtype | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float16), requires_grad=False)
        self.good = good
        self.config = SimpleNamespace(block_out_channels=(8, 8, 8, 8))
        self.calls: list[torch.dtype] = []

    def decode(self, latents: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        self.calls.append(latents.dtype)
        image = latents[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)
        return (image if self.good == self.weight.dtype == latents.dtype else image * float("nan"),)

    def encode(self, images: Tensor) -> SimpleNamespace:
        value = images[:, :, ::8, ::8] if self.good == images.dtype else images[:, :, ::8, ::8] * float("nan")
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=value, std=torch.ones_like(value)))


def vae(module: nn.Module, dtype: torch.dtype = torch.float16) -> Vae:
    return Vae("key", module, dtype, Device(DevicePlan(torch.device("cpu"))))


def test_not_a_number_in_half_precision_switches_to_float32_for_good() -> None:
    module = FragileAutoencoder(good=torch.float32)
    fragile = vae(module)
    latents = torch.randn(2, 4, 4, 4)
    image = fragile.decode(latents)
    assert image.dtype == torch.float32 and image.shape == (2, 3, 32, 32)
    assert torch.isfinite(image).all()
    assert module.calls == [torch.float16, torch.float32, torch.float32]


def test_encoding_falls_back_as_well() -> None:
    latents = vae(FragileAutoencoder(good=torch.float32)).encode(torch.randn(1, 3, 32, 32), None)
    assert torch.isfinite(latents).all()


def test_the_settings_choose_what_it_goes_on_in() -> None:
    latents = torch.randn(1, 4, 4, 4)
    assert torch.isfinite(vae(FragileAutoencoder(torch.bfloat16)).decode(latents, fallback=torch.bfloat16)).all()
    with pytest.raises(SdWebUIError, match=r"auto_vae_precision.*--no-half-vae"):
        vae(FragileAutoencoder(torch.float32)).decode(latents, fallback=None)
    blind = Device(DevicePlan(torch.device("cpu"), nan_check=False))
    assert torch.isnan(Vae("key", FragileAutoencoder(None), torch.float16, blind).decode(latents)).any()


def test_not_a_number_in_float32_is_an_error() -> None:
    with pytest.raises(SdWebUIError, match="not-a-number"):
        vae(FragileAutoencoder(good=None), torch.float32).decode(torch.randn(1, 4, 4, 4))


def test_a_projection_recovers_a_linear_encoder() -> None:
    matrix = torch.tensor([[1.0, 0.2, 0.0], [0.0, 1.0, 0.3], [0.5, 0.0, 1.0], [0.1, 0.2, 0.3]])

    class Linear:
        def encode(self, images: Tensor, noise: Tensor | None, *, tiling: bool = False) -> Tensor:
            means = nn.functional.avg_pool2d(images, 8)
            return torch.einsum("dc,bchw->bdhw", matrix, means) + 0.25

    colour = torch.tensor([0.5, -0.5, 0.0])
    latent = (matrix @ colour + 0.25)[:, None, None].expand(4, 2, 3)
    picture = fit(Linear()).picture(latent)
    assert picture.size == (3, 2)
    assert all(abs(a - b) <= 1 for a, b in zip(picture.getpixel((1, 1)), (191, 64, 128), strict=True))


def test_edges_wrap_only_inside_the_context() -> None:
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(layer.weight)
    image = torch.zeros(1, 1, 4, 4)
    image[..., 0] = 1
    with torch.no_grad(), pytest.raises(KeyError):
        with wrapped_edges(layer, True):
            assert layer(image)[0, 0, 1, 3] == 3
        assert layer(image)[0, 0, 1, 3] == 0
        with wrapped_edges(layer, True):
            raise KeyError
    assert layer.padding_mode == "zeros"
    with wrapped_edges(layer, False):
        assert layer.padding_mode == "zeros"


def test_a_picture_that_no_cpu_could_hold_is_refused_before_it_is_tried() -> None:
    module = FragileAutoencoder(good=torch.float16)
    with pytest.raises(OutOfMemory, match="megapixels"):
        vae(module).decode(torch.zeros(1, 4, 1, 1).expand(1, 4, 2**16, 2**16))
    with pytest.raises(OutOfMemory):
        vae(module).encode(torch.zeros(1, 3, 1, 1).expand(1, 3, 2**19, 2**19), None)
    assert not module.calls
