"""Depth: LeReS (Yin et al. 2020, arXiv 2012.09365) on ResNeXt-101."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sdwebui_api.engine.annotators.efficientnet import as_imagenet
from sdwebui_api.engine.annotators.layers import Layers


class _Bottleneck(nn.Module):
    def __init__(self, layers: Layers, stride: int) -> None:
        super().__init__()
        width, per_group = layers.shape("conv2.weight")[:2]
        self.conv1, self.conv3 = layers.conv("conv1"), layers.conv("conv3")
        self.conv2 = layers.conv("conv2", stride=stride, groups=width // per_group)
        self.bn1, self.bn2, self.bn3 = (layers.batch_norm(f"bn{n}") for n in (1, 2, 3))
        self.downsample: nn.Module | None = None
        if "downsample.0.weight" in layers:
            conv = layers.conv("downsample.0", stride=stride)
            self.downsample = nn.Sequential(conv, layers.batch_norm("downsample.1"))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        summed: Tensor = self.bn3(self.conv3(inner)) + (x if self.downsample is None else self.downsample(x))
        return summed.relu()


class _ResNeXt(nn.Module):
    """Features at 1/4, 1/8, 1/16 and 1/32 of the sides."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.conv1 = layers.conv("conv1", stride=2)
        self.bn1 = layers.batch_norm("bn1")
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(
                *(
                    _Bottleneck(layers.at(f"layer{n}", block), 2 if n > 1 and block == 0 else 1)
                    for block in layers.at(f"layer{n}").numbers()
                )
            )
            for n in (1, 2, 3, 4)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, stride=2, padding=1)
        found = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            found.append(x)
        return found


class _Encoder(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.encoder = _ResNeXt(layers.at("encoder"))

    def forward(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.encoder(x)
        return features


class _Transfer(nn.Module):
    """A convolution, and more of them added to it; what is added sees the first one rectified, as the original."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.conv1 = layers.conv("conv1")
        inner = layers.at("conv_branch")
        self.conv_branch = nn.Sequential(nn.ReLU(), inner.conv("1"), inner.batch_norm("2"), nn.ReLU(), inner.conv("4"))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).relu()  # in place in the original, so the sum gets it too
        summed: Tensor = x + self.conv_branch(x)
        return summed.relu()


class _Fusion(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.ftb1, self.ftb2 = _Transfer(layers.at("ftb1")), _Transfer(layers.at("ftb2"))

    def forward(self, beside: Tensor, x: Tensor) -> Tensor:
        return _doubled(self.ftb2(self.ftb1(beside) + x))


class _Output(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        inner = layers.at("adapt_conv")
        self.adapt_conv = nn.Sequential(inner.conv("0"), inner.batch_norm("1"), nn.ReLU(), inner.conv("3"))

    def forward(self, x: Tensor) -> Tensor:
        return _doubled(self.adapt_conv(x))


class _Decoder(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.conv = _Transfer(layers.at("conv"))
        self.conv1 = layers.conv("conv1")
        self.ffm2, self.ffm1, self.ffm0 = (_Fusion(layers.at(f"ffm{n}")) for n in (2, 1, 0))
        self.outconv = _Output(layers.at("outconv"))

    def forward(self, features: list[Tensor]) -> Tensor:
        x = _doubled(self.conv1(self.conv(features[3])))
        for fuse, beside in zip((self.ffm2, self.ffm1, self.ffm0), reversed(features[:3]), strict=True):
            x = fuse(beside, x)
        depth: Tensor = self.outconv(x)
        return depth


def _doubled(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class _DepthModel(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.encoder_modules = _Encoder(layers.at("encoder_modules"))
        self.decoder_modules = _Decoder(layers.at("decoder_modules"))

    def forward(self, x: Tensor) -> Tensor:
        depth: Tensor = self.decoder_modules(self.encoder_modules(x))
        return depth


class Leres(nn.Module):
    """[1, 3, H, W] RGB in [0, 255], sides multiples of 32 → [H, W], up to a scale and a shift; large is far."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.depth_model = _DepthModel(layers.at("depth_model"))

    def forward(self, x: Tensor) -> Tensor:
        # As the extension (annotator/leres/leres/depthmap.py, scale_torch): blue first, and not divided by 255.
        depth: Tensor = self.depth_model(as_imagenet(x.flip(1) * 255.0))[0, 0]
        return depth


def build_leres(tensors: Mapping[str, Tensor]) -> nn.Module:
    """For the names of the authors' file (its part `depth_model`)."""
    return Leres(Layers.of(tensors))
