"""Surface normals with a known field of view: DSINE (Bae & Davison 2024, arXiv 2403.00712).

A first guess at an eighth of the size is refined again and again: each cell's normal becomes a mean of its
neighbours' normals, each turned by an axis and an angle that the network names. Camera coordinates: right, down, away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sdwebui_api.engine.annotators.efficientnet import EfficientNet, as_imagenet
from sdwebui_api.engine.annotators.layers import Layers

PATCH = 5
"""Side of the neighbourhood."""
DOWN = 8
_LEAST_COSINE = 0.01
"""Between a normal and the ray that sees it."""
_FIELDS = (1.0, 179.0)
"""Fields of view that a camera can have, degrees."""


class _Standardised(nn.Conv2d):
    """Its weights have mean 0 and deviation 1 per output (Qiao et al. 2019, arXiv 1903.10520)."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.flatten(1)
        flat = flat - flat.mean(1, keepdim=True)
        flat = flat / (flat.std(1, keepdim=True) + 1e-5)
        return nn.functional.conv2d(x, flat.view_as(self.weight), self.bias, padding=1)


class _Up(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        inner = layers.at("_net")
        for number in (0, 3):
            out, width_in = inner.shape(f"{number}.weight")[:2]
            parts += [_Standardised(width_in, out, 3, padding=1), nn.GroupNorm(8, out), nn.LeakyReLU()]
        self._net = nn.Sequential(*parts)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        x = nn.functional.interpolate(x, beside.shape[-2:], mode="bilinear", align_corners=False)
        mixed: Tensor = self._net(torch.cat([x, beside], 1))
        return mixed


def _head(layers: Layers) -> nn.Sequential:
    return nn.Sequential(layers.conv("0"), nn.ReLU(), layers.conv("2"), nn.ReLU(), layers.conv("4"))


class _Decoder(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.conv2 = layers.conv("conv2")
        self.up1, self.up2 = _Up(layers.at("up1")), _Up(layers.at("up2"))
        self.normal_head, self.feature_head, self.hidden_head = (
            _head(layers.at(f"{name}_head")) for name in ("normal", "feature", "hidden")
        )

    def forward(self, features: list[Tensor], camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
        _, _, eighth, sixteenth, last = features
        x = self.conv2(torch.cat([last, camera.rays(last)], 1))
        x = self.up1(x, torch.cat([sixteenth, camera.rays(sixteenth)], 1))
        x = self.up2(x, torch.cat([eighth, camera.rays(eighth)], 1))
        x = torch.cat([x, camera.rays(x)], 1)
        return _unit(self.normal_head(x)), self.feature_head(x), self.hidden_head(x)


class _Memory(nn.Module):
    """A gated recurrent unit of convolutions (Cho et al. 2014)."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.convz, self.convr, self.convq = (layers.conv(name) for name in ("convz", "convr", "convq"))

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        both = torch.cat([hidden, x], 1)
        keep, use = self.convz(both).sigmoid(), self.convr(both).sigmoid()
        return (1 - keep) * hidden + keep * self.convq(torch.cat([use * hidden, x], 1)).tanh()


class Camera:
    """A pinhole in the middle; `focal` in pixels of a picture `width` x `height`."""

    def __init__(self, width: int, height: int, field_of_view: float) -> None:
        """field_of_view: degrees across the longer side."""
        degrees = min(max(field_of_view, _FIELDS[0]), _FIELDS[1])
        self.width, self.height = width, height
        self.focal = max(width, height) / 2 / math.tan(math.radians(degrees / 2))

    def rays(self, features: Tensor) -> Tensor:
        """`[1, 2, h, w]`: where the ray through each cell of `features` meets the plane at distance 1."""
        height, width = features.shape[-2:]
        across = (torch.arange(width).to(features) + 0.5) * (self.width / width) - self.width / 2
        down = (torch.arange(height).to(features) + 0.5) * (self.height / height) - self.height / 2
        grid = torch.stack(torch.meshgrid(across, down, indexing="xy"))
        return grid[None] / self.focal

    def step(self, features: Tensor) -> tuple[float, float]:
        """How far apart the rays of neighbouring cells are: across, down."""
        height, width = features.shape[-2:]
        return self.width / width / self.focal, self.height / height / self.focal


class Dsine(nn.Module):
    """[1, 3, H, W] RGB in [0, 255], sides multiples of 32 → [3, H, W] from -1 to 1."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"original_model": EfficientNet(layers.at("encoder", "original_model"))})
        self.decoder = _Decoder(layers.at("decoder"))
        self.gru = _Memory(layers.at("gru"))
        self.prob_head, self.xy_head, self.angle_head, self.up_prob_head = (
            _head(layers.at(f"{name}_head")) for name in ("prob", "xy", "angle", "up_prob")
        )
        if layers.shape("angle_head.4.weight")[0] != PATCH**2 or layers.shape("prob_head.4.weight")[0] != PATCH**2:
            raise ValueError(f"its neighbourhoods are not {PATCH} x {PATCH}")

    def forward(self, x: Tensor, *, field_of_view: float = 60.0, iterations: float = 5) -> Tensor:
        camera = Camera(x.shape[3], x.shape[2], field_of_view)
        normals, features, hidden = self.decoder(self.encoder["original_model"](as_imagenet(x)), camera)
        rays = camera.rays(features)
        towards = _unit(torch.cat([rays, torch.ones_like(rays[:, :1])], 1))
        normals = _facing(normals, towards)
        features = torch.cat([features, rays], 1)
        for _ in range(int(iterations)):
            hidden = self.gru(hidden, features)
            normals = self._refined(torch.cat([hidden, rays], 1), normals, camera, rays, towards)
        return _unit(_enlarged(normals, self.up_prob_head(torch.cat([hidden, rays], 1))))[0]

    def _refined(self, seen: Tensor, normals: Tensor, camera: Camera, rays: Tensor, towards: Tensor) -> Tensor:
        shares = self.prob_head(seen)[:, None].sigmoid()
        angles = self.angle_head(seen)[:, None].sigmoid() * math.pi
        directions = _unit(self.xy_head(seen).unflatten(1, (2, PATCH**2)))
        around = _neighbours(normals)
        axes = _axes(directions, around, _neighbours(rays), camera.step(normals))
        turned = _facing(_unit(_rotated(around, axes, angles)), towards[:, :, None])
        return _unit((shares * turned).sum(2))


def _unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors, dim=1)


def _facing(normals: Tensor, towards: Tensor) -> Tensor:
    """Normals that look away from the camera bent until they are seen edge-on."""
    cosine = (normals * towards).sum(1, keepdim=True)
    return _unit(normals + towards * ((cosine - _LEAST_COSINE).relu() + _LEAST_COSINE - cosine))


def _neighbours(x: Tensor) -> Tensor:
    """`[1, C, h, w]` → `[1, C, 25, h, w]`, the border repeated."""
    padded = nn.functional.pad(x, (PATCH // 2,) * 4, mode="replicate")
    return nn.functional.unfold(padded, PATCH).unflatten(1, (x.shape[1], -1)).unflatten(3, x.shape[-2:])


def _axes(directions: Tensor, normals: Tensor, rays: Tensor, step: tuple[float, float]) -> Tensor:
    """The edge in space that looks like `directions` `[1, 2, 25, h, w]` in the picture and lies in the surface."""
    across, down = directions[:, 0] * step[0], directions[:, 1] * step[1]
    to_x, to_y = rays[:, 0] + across, rays[:, 1] + down
    x, y, z = normals.unbind(1)
    below = to_x * x + to_y * y + z
    below = torch.where(below.abs() < 1e-8, below.sign() * 1e-8, below)
    deeper = -(across * x + down * y) / below
    axes = _unit(torch.stack([across + deeper * to_x, down + deeper * to_y, deeper], 1))
    whole = axes.isfinite().all(1, keepdim=True)
    return torch.where(whole, axes, torch.zeros_like(axes))


def _rotated(vectors: Tensor, axes: Tensor, angles: Tensor) -> Tensor:
    """By Rodrigues' formula; where the axis is 0, unchanged."""
    cosine, sine = angles.cos(), angles.sin()
    turned = torch.linalg.cross(axes, vectors, dim=1) * sine
    turned = turned + vectors * cosine + axes * (axes * vectors).sum(1, keepdim=True) * (1 - cosine)
    return torch.where((axes == 0).all(1, keepdim=True), vectors, turned)


def _enlarged(normals: Tensor, scores: Tensor) -> Tensor:
    """Eight times the size: every pixel a convex combination of the nine cells around it."""
    height, width = normals.shape[-2:]
    shares = scores.view(1, 1, 9, DOWN, DOWN, height, width).softmax(2)
    padded = nn.functional.pad(normals, (1, 1, 1, 1), mode="replicate")
    cells = nn.functional.unfold(padded, 3).view(1, 3, 9, 1, 1, height, width)
    mixed = (shares * cells).sum(2)
    return mixed.permute(0, 1, 4, 2, 5, 3).reshape(1, 3, DOWN * height, DOWN * width)


def build_dsine(tensors: Mapping[str, Tensor]) -> nn.Module:
    """For the names of the authors' file."""
    return Dsine(Layers.of(tensors))
