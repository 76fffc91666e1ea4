"""What text encoders give to whoever conditions a model on prompts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextOutput:
    """Of B rows of tokens. One text model gives one entry of `states`, SDXL's two give two."""

    states: tuple[Tensor, ...]
    """Each [B, 77, D], float32."""
    pooled: Tensor | None = None
    """[B, P] float32, one vector for the whole row, where the family has a use for it."""

    @property
    def context(self) -> Tensor:
        """[B, 77, sum of D]: the states side by side, which is what the UNet attends to."""
        return self.states[0] if len(self.states) == 1 else torch.cat(self.states, dim=-1)
