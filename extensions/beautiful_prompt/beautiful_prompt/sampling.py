"""How expanded prompts are drawn: the settings, and what of them may be left to the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import SystemRandom

LARGEST_SEED = 2**32 - 1
MOST_RESULTS = 10
LONGEST_RESULT = 512
LONGEST_TEXT = 2000
"""Characters of what is expanded."""

OnTokens = Callable[[int], bool]
"""Told how many tokens there are; answers whether to stop at that. May raise."""


@dataclass(frozen=True)
class Sampling:
    """None: as the model's authors recommend."""

    count: int = 1
    seed: int = -1
    """Of the first result; the next ones count up. Negative: drawn."""
    max_new_tokens: int = 100
    temperature: float | None = None
    """0: always the likeliest token."""
    top_k: int = 50
    """0: all tokens."""
    top_p: float = 0.95
    repetition_penalty: float | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple((self.seed + number) % (LARGEST_SEED + 1) for number in range(self.count))

    def drawn(self) -> Sampling:
        """With a seed."""
        return self if self.seed >= 0 else replace(self, seed=SystemRandom().randrange(LARGEST_SEED))

    def with_defaults(self, temperature: float, repetition_penalty: float) -> Sampling:
        """`temperature` and `repetition_penalty` where nothing was asked for."""
        return replace(
            self,
            temperature=temperature if self.temperature is None else self.temperature,
            repetition_penalty=repetition_penalty if self.repetition_penalty is None else self.repetition_penalty,
        )
