"""TinyViT (Wu et al. 2022, arXiv 2207.10666) as MobileSAM has it: the encoder of 1024 x 1024 pictures."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sdwebui_api.engine.annotators.layers import Layers


class _ConvNorm(nn.Sequential):
    def __init__(self, layers: Layers, *, stride: int = 1, depthwise: bool = False) -> None:
        super().__init__()
        make = layers.depthwise if depthwise else layers.conv
        self.add_module("c", make("c", stride=stride))
        self.add_module("bn", layers.batch_norm("bn"))


class ChannelNorm(nn.Module):
    """A layer norm over the channels of `[B, C, H, W]`."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layers.shape("weight")))
        self.bias = nn.Parameter(torch.empty(layers.shape("bias")))

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(1, keepdim=True)
        x = x / (x.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class _ConvBlock(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.conv1, self.conv3 = (_ConvNorm(layers.at(f"conv{n}")) for n in (1, 3))
        self.conv2 = _ConvNorm(layers.at("conv2"), depthwise=True)

    def forward(self, x: Tensor) -> Tensor:
        gelu = nn.functional.gelu
        return gelu(x + self.conv3(gelu(self.conv2(gelu(self.conv1(x))))))


class _Merging(nn.Module):
    """Between stages: wider, and half the sides but for the last time."""

    def __init__(self, layers: Layers, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv3 = (_ConvNorm(layers.at(f"conv{n}")) for n in (1, 3))
        self.conv2 = _ConvNorm(layers.at("conv2"), stride=stride, depthwise=True)

    def forward(self, x: Tensor) -> Tensor:
        merged: Tensor = self.conv3(nn.functional.gelu(self.conv2(nn.functional.gelu(self.conv1(x)))))
        return merged


class _Attention(nn.Module):
    """Within a window; every head adds a learned number for every distance."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.heads, distances = layers.shape("attention_biases")
        self.window = math.isqrt(distances)
        self.norm = layers.layer_norm("norm")
        self.qkv, self.proj = layers.linear("qkv"), layers.linear("proj")
        self.attention_biases = nn.Parameter(torch.empty(self.heads, distances))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(3, dim=-1)
        bias = self.attention_biases[:, self._distances(x.device)]
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        found: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return found

    def _distances(self, device: torch.device) -> Tensor:
        """`[N, N]`: the number of the distance between every two cells of a window."""
        cells = torch.arange(self.window**2, device=device)
        rows, columns = cells // self.window, cells % self.window
        return (rows[:, None] - rows).abs() * self.window + (columns[:, None] - columns).abs()


class _Mlp(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.norm = layers.layer_norm("norm")
        self.fc1, self.fc2 = layers.linear("fc1"), layers.linear("fc2")

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))
        return changed


class _Block(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.attn = _Attention(layers.at("attn"))
        self.mlp = _Mlp(layers.at("mlp"))
        self.local_conv = _ConvNorm(layers.at("local_conv"), depthwise=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attended(x)
        x = self.local_conv(x)
        return x + self.mlp(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[-2:])

    def _attended(self, x: Tensor) -> Tensor:
        side, (height, width) = self.attn.window, x.shape[-2:]
        padded = nn.functional.pad(x, (0, -width % side, 0, -height % side))
        down, across = padded.shape[2] // side, padded.shape[3] // side
        windows = padded.unflatten(3, (across, side)).unflatten(2, (down, side)).permute(0, 2, 4, 3, 5, 1)
        seen = self.attn(windows.flatten(0, 2).flatten(1, 2))
        seen = seen.view(len(x), down, across, side, side, -1).permute(0, 5, 1, 3, 2, 4)
        return seen.flatten(4).flatten(2, 3)[:, :, :height, :width]


class _Stage(nn.Module):
    def __init__(self, layers: Layers, kind: type[_Block] | type[_ConvBlock], stride: int) -> None:
        super().__init__()
        inner = layers.at("blocks")
        self.blocks = nn.Sequential(*(kind(inner.at(number)) for number in inner.numbers()))
        merges = "downsample.conv1.c.weight" in layers
        self.downsample = _Merging(layers.at("downsample"), stride) if merges else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return x if self.downsample is None else self.downsample(x)


class TinyVit(nn.Module):
    """[1, 3, H, W] normalised, sides multiples of 16 → [1, 256, H/16, W/16]."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        patches = layers.at("patch_embed", "seq")
        self.patch_embed = nn.ModuleDict(
            {"seq": nn.Sequential(_ConvNorm(patches.at(0), stride=2), nn.GELU(), _ConvNorm(patches.at(2), stride=2))}
        )
        numbers = layers.at("layers").numbers()
        self.layers = nn.Sequential(
            *(
                _Stage(layers.at("layers", n), _Block if n else _ConvBlock, stride=1 if n == numbers[-2] else 2)
                for n in numbers
            )
        )
        # of a classifier, in the file though nothing asks it
        self.norm_head, self.head = layers.layer_norm("norm_head"), layers.linear("head")
        neck = layers.at("neck")
        self.neck = nn.Sequential(
            neck.conv("0"), ChannelNorm(neck.at(1)), neck.conv("2"), ChannelNorm(neck.at(3))
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.neck(self.layers(self.patch_embed["seq"](x)))
        return features
