"""Lines of manga without their screentone ("Deep extraction of manga structural lines", Li, Liu & Wong 2017).

A U-Net of residual blocks with the norm before the convolution, on grey pictures, as ported to PyTorch (`erika.pth`).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sdwebui_api.engine.annotators.layers import Layers

MULTIPLE = 16
"""Sides of what the network takes: four times halved."""
_NORM_EPS = 1e-3  # Keras's, where it was trained
_GREY = (0.299, 0.587, 0.114)


class _NormConv(nn.Module):
    """`model`: norm 0, leaky ReLU 1, convolution 2, and doubling."""

    def __init__(self, layers: Layers, *, stride: int = 1, doubles: bool = False) -> None:
        super().__init__()
        parts: list[nn.Module] = [layers.batch_norm("model.0", _NORM_EPS), nn.LeakyReLU(0.2)]
        parts.append(layers.conv("model.2", stride=stride))
        self.model = nn.Sequential(*parts, *([nn.Upsample(scale_factor=2, mode="nearest")] if doubles else []))

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.model(x)
        return changed


class _Shortcut(nn.Module):
    """`model`: a 1x1 convolution, where the shapes differ."""

    def __init__(self, layers: Layers, *, stride: int, doubles: bool) -> None:
        super().__init__()
        parts: list[nn.Module] = [layers.conv("model.0", stride=stride)]
        self.model = nn.Sequential(*parts, *([nn.Upsample(scale_factor=2, mode="nearest")] if doubles else []))

    def forward(self, x: Tensor) -> Tensor:
        carried: Tensor = self.model(x)
        return carried


class _Residual(nn.Module):
    def __init__(self, layers: Layers, *, stride: int = 1, doubles: bool = False) -> None:
        super().__init__()
        self.conv1 = _NormConv(layers.at("conv1"), stride=stride, doubles=doubles)
        self.residual = _NormConv(layers.at("residual"))
        shortcut = layers.at("shortcut")
        differs = "model.0.weight" in shortcut
        self.shortcut = _Shortcut(shortcut, stride=stride, doubles=doubles) if differs else None

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.residual(self.conv1(x))
        return changed + (x if self.shortcut is None else self.shortcut(x))


class _Level(nn.Module):
    """Residual blocks, of which the last one halves the sides, or the first one doubles them."""

    def __init__(self, layers: Layers, *, halves: bool = False, doubles: bool = False) -> None:
        super().__init__()
        numbers = layers.at("model").numbers()
        self.model = nn.Sequential(
            *(
                _Residual(
                    layers.at("model", number),
                    stride=2 if halves and number == numbers[-1] else 1,
                    doubles=doubles and number == 0,
                )
                for number in numbers
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.model(x)
        return changed


class MangaLines(nn.Module):
    """[1, 3, H, W] RGB in [0, 255] → [H, W], from 0 to 1 where lines are."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.block0, self.block9 = (_Level(layers.at(f"block{n}")) for n in (0, 9))
        self.block1, self.block2, self.block3, self.block4 = (
            _Level(layers.at(f"block{n}"), halves=True) for n in (1, 2, 3, 4)
        )
        self.block5, self.block6, self.block7, self.block8 = (
            _Level(layers.at(f"block{n}"), doubles=True) for n in (5, 6, 7, 8)
        )
        self.conv15 = _NormConv(layers.at("conv15"))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        grey = sum(share * x[:, index : index + 1] for index, share in enumerate(_GREY))
        assert isinstance(grey, Tensor)
        grey = nn.functional.pad(grey.round(), (0, -width % MULTIPLE, 0, -height % MULTIPLE), value=1.0)
        down = [self.block0(grey)]
        for block in (self.block1, self.block2, self.block3, self.block4):
            down.append(block(down[-1]))
        y = down.pop()
        for block in (self.block5, self.block6, self.block7, self.block8):
            y = block(y) + down.pop()
        paper: Tensor = self.conv15(self.block9(y))[0, 0, :height, :width]
        return 1.0 - paper.clamp(0.0, 255.0) / 255.0


def build_manga_lines(tensors: Mapping[str, Tensor]) -> nn.Module:
    """For the names of the port's file."""
    return MangaLines(Layers.of(tensors))
