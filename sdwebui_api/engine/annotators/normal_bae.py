"""Surface normals with their uncertainty: NNET (Bae et al. 2021, arXiv 2109.09881), the decoder with batch norms."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sdwebui_api.engine.annotators.efficientnet import EfficientNet, as_imagenet
from sdwebui_api.engine.annotators.layers import Layers


class Up(nn.Module):
    """Brought to the size of what stands beside it, then two convolutions with norms, all in `_net`."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        inner = layers.at("_net")
        self._net = nn.Sequential(
            inner.conv("0"), inner.batch_norm("1"), nn.LeakyReLU(), inner.conv("3"), inner.batch_norm("4"),
            nn.LeakyReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        x = nn.functional.interpolate(x, beside.shape[-2:], mode="bilinear", align_corners=True)
        mixed: Tensor = self._net(torch.cat([x, beside], 1))
        return mixed


def _pixelwise(layers: Layers) -> nn.Sequential:
    parts: list[nn.Module] = []
    for number in layers.numbers():
        parts += [layers.pointwise(str(number)), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class _Decoder(nn.Module):
    """From coarse to fine: the normals of each size are guessed from the coarser ones and that size's features."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.conv2 = layers.conv("conv2")
        self.up1, self.up2, self.up3, self.up4 = (Up(layers.at(f"up{n}")) for n in (1, 2, 3, 4))
        self.out_conv_res8 = layers.conv("out_conv_res8")
        self.out_conv_res4, self.out_conv_res2, self.out_conv_res1 = (
            _pixelwise(layers.at(f"out_conv_res{n}")) for n in (4, 2, 1)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        half, quarter, eighth, sixteenth, last = features
        x = self.up1(self.conv2(last), sixteenth)
        seen = self.up2(x, eighth)
        normals = _normalised(self.out_conv_res8(seen))
        steps = ((self.out_conv_res4, self.up3, quarter), (self.out_conv_res2, self.up4, half))
        for guess, up, beside in steps:
            finer = up(seen, beside)
            normals = _refined(guess, seen, normals)
            seen = finer
        return _refined(self.out_conv_res1, seen, normals)


def _refined(guess: nn.Module, seen: Tensor, normals: Tensor) -> Tensor:
    both = torch.cat([seen, normals], 1)
    both = nn.functional.interpolate(both, scale_factor=2, mode="bilinear", align_corners=True)
    return _normalised(guess(both.flatten(2)).unflatten(2, both.shape[-2:]))


def _normalised(found: Tensor) -> Tensor:
    """Normals `[:, :3]` of length 1; the certainty `[:, 3:]` above 0.01."""
    length = found[:, :3].pow(2).sum(1, keepdim=True).sqrt() + 1e-10
    return torch.cat([found[:, :3] / length, nn.functional.elu(found[:, 3:]) + 1.01], 1)


class _Encoder(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.original_model = EfficientNet(layers.at("original_model"))

    def forward(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.original_model(x)
        return features


class NormalBae(nn.Module):
    """[1, 3, H, W] RGB in [0, 255], sides multiples of 32 → [3, H, W] from -1 to 1 (right, down, towards us)."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.encoder = _Encoder(layers.at("encoder"))
        self.decoder = _Decoder(layers.at("decoder"))

    def forward(self, x: Tensor) -> Tensor:
        normals: Tensor = self.decoder(self.encoder(as_imagenet(x)))
        return normals[0, :3]


def build_normal_bae(tensors: Mapping[str, Tensor]) -> nn.Module:
    """For the names of the authors' file."""
    return NormalBae(Layers.of(tensors))
