"""Inverted residuals: the blocks of MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381), under torchvision's names."""

from __future__ import annotations

from torch import Tensor, nn

from sdwebui_api.engine.annotators.layers import Layers

Pad = tuple[int, int, int, int]


class _ConvNorm(nn.Sequential):
    """Convolution `0`, norm `1`, ReLU6. `uneven`: TensorFlow's padding, on the right and below only."""

    def __init__(self, layers: Layers, *, stride: int = 1, depthwise: bool = False, uneven: bool = False) -> None:
        make = layers.depthwise if depthwise else layers.conv
        self.pad = uneven and stride == 2
        conv = make("0", stride=stride, padding=0 if self.pad else None)
        super().__init__(conv, layers.batch_norm("1"), nn.ReLU6())

    def forward(self, x: Tensor) -> Tensor:
        if self.pad:
            x = nn.functional.pad(x, (0, 1, 0, 1))
        found: Tensor = super().forward(x)
        return found


class InvertedResidual(nn.Module):
    """Widened, one filter per channel, narrowed; added to what came in where the shapes agree."""

    def __init__(self, layers: Layers, *, stride: int, uneven: bool = False) -> None:
        super().__init__()
        inner = layers.at("conv")
        widens = inner.numbers()[-1] == 3
        parts: list[nn.Module] = [_ConvNorm(inner.at(0))] if widens else []
        parts.append(_ConvNorm(inner.at(len(parts)), stride=stride, depthwise=True, uneven=uneven))
        narrowing = inner.conv(str(len(parts)))
        norm = inner.batch_norm(str(len(parts) + 1))
        self.conv = nn.Sequential(*parts, narrowing, norm)
        width_in = inner.shape("0.0.weight")[1] if widens else inner.shape("0.0.weight")[0]
        self._adds = stride == 1 and width_in == narrowing.out_channels

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.conv(x)
        return x + changed if self._adds else changed


def entry(layers: Layers, *, uneven: bool = False) -> nn.Module:
    """The first convolution, which halves the sides."""
    return _ConvNorm(layers, stride=2, uneven=uneven)
