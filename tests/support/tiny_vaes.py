"""TAESD as it was published, layer by layer, with random weights: what its files hold."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


def conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(64, 64), nn.ReLU(), conv(64, 64), nn.ReLU(), conv(64, 64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


class Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


def published_encoder() -> nn.Sequential:
    """Pictures from 0 to 1 to latents."""
    torch.manual_seed(1)
    layers: list[nn.Module] = [conv(3, 64), Block()]
    for _ in range(3):
        layers += [conv(64, 64, stride=2, bias=False), Block(), Block(), Block()]
    return nn.Sequential(*layers, conv(64, 4)).eval()


def published_decoder() -> nn.Sequential:
    """Latents to pictures from 0 to 1."""
    torch.manual_seed(2)
    layers: list[nn.Module] = [Clamp(), conv(4, 64), nn.ReLU()]
    for _ in range(3):
        layers += [Block(), Block(), Block(), nn.Upsample(scale_factor=2), conv(64, 64, bias=False)]
    return nn.Sequential(*layers, Block(), conv(64, 3)).eval()


def write(folder: Path, name: str, module: nn.Module) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(module.state_dict(), path)
    else:
        torch.save(module.state_dict(), path)
    return path
