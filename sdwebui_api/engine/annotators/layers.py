"""Layers with the dimensions that a file's tensors have: a network is built for its weights, whatever their width."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sdwebui_api.engine.reading import Shapes, shapes_of


class Layers:
    """Makes layers for the tensors below `prefix`. Every method raises KeyError naming a tensor that is missing."""

    def __init__(self, shapes: Shapes, prefix: str = "") -> None:
        self._shapes = shapes
        self._prefix = prefix

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layers:
        return cls(shapes_of(tensors))

    def at(self, *names: str | int) -> Layers:
        """Those below `names`, one inside the other."""
        return Layers(self._shapes, self._prefix + "".join(f"{name}." for name in names))

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._shapes

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[self._prefix + name]

    def numbers(self) -> list[int]:
        """The numbers that stand right below the prefix, in order."""
        rests = (name[len(self._prefix) :] for name in self._shapes if name.startswith(self._prefix))
        heads = {rest.partition(".")[0] for rest in rests}
        return sorted(int(head) for head in heads if head.isdigit())

    def conv(
        self, name: str, *, stride: int = 1, padding: int | None = None, dilation: int = 1, groups: int = 1
    ) -> nn.Conv2d:
        """padding None: what keeps the size."""
        out, inner, height, width = self.shape(f"{name}.weight")
        if padding is None:
            padding = dilation * (height // 2)
        return nn.Conv2d(
            inner * groups, out, (height, width), stride=stride, padding=padding, dilation=dilation, groups=groups,
            bias=f"{name}.bias" in self,
        )  # fmt: skip

    def depthwise(self, name: str, *, stride: int = 1, padding: int | None = None) -> nn.Conv2d:
        return self.conv(name, stride=stride, padding=padding, groups=self.shape(f"{name}.weight")[0])

    def pointwise(self, name: str) -> nn.Conv1d:
        out, inner, _ = self.shape(f"{name}.weight")
        return nn.Conv1d(inner, out, 1, bias=f"{name}.bias" in self)

    def upconv(self, name: str, *, stride: int, padding: int, output_padding: int = 0) -> nn.ConvTranspose2d:
        inner, out, side, _ = self.shape(f"{name}.weight")
        return nn.ConvTranspose2d(
            inner, out, side, stride=stride, padding=padding, output_padding=output_padding, bias=f"{name}.bias" in self
        )

    def linear(self, name: str) -> nn.Linear:
        out, inner = self.shape(f"{name}.weight")
        return nn.Linear(inner, out, bias=f"{name}.bias" in self)

    def batch_norm(self, name: str, eps: float = 1e-5) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(self.shape(f"{name}.running_mean")[0], eps=eps)

    def layer_norm(self, name: str, eps: float = 1e-5) -> nn.LayerNorm:
        return nn.LayerNorm(self.shape(f"{name}.weight"), eps=eps)
