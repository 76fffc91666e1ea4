"""What SDXL is told besides the prompt: how large the picture is, where it was cut out, how good it should look.

Podell et al. 2023, "SDXL", section 2.2; the embedding is the timestep's of Vaswani et al. 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdwebui_api.engine.families.base import LabelFormat
from sdwebui_api.errors import UnusableModel

MAX_PERIOD = 10000.0


@dataclass(frozen=True)
class PictureFacts:
    """height and width in pixels, of the original and of the target at once, as A1111 has it."""

    height: int
    width: int
    crop_top: int = 0
    crop_left: int = 0
    aesthetic_score: float = 6.0


def label(pooled: Tensor, facts: PictureFacts, format: LabelFormat, width: int) -> Tensor:
    """[K, width] of pooled texts [K, P]: the pooled text, then every number of `format`.

    Raises UnusableModel when the numbers cannot fill what the pooled text leaves.
    """
    room, count = width - pooled.shape[1], len(format.numbers)
    if room <= 0 or room % (2 * count):
        raise UnusableModel(
            f"the label embedding is {width} wide: behind {pooled.shape[1]} of the text there is no room for "
            f"{count} embedded numbers"
        )
    numbers = torch.tensor([float(getattr(facts, name)) for name in format.numbers], device=pooled.device)
    embedded = sinusoidal(numbers, room // count).flatten()
    return torch.cat([pooled, embedded.to(pooled).expand(len(pooled), -1)], dim=1)


def sinusoidal(numbers: Tensor, width: int) -> Tensor:
    """[N, width]: cosines, then sines, of `numbers` [N] at falling frequencies."""
    half = width // 2
    frequencies = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, device=numbers.device) / half)
    angles = numbers[:, None].float() * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)
