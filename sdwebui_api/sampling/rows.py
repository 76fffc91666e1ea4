"""The rows of one evaluation: prompts and negative prompts side by side, as many at once as share a token count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """A row of the model's input: which picture of the batch it belongs to, and whether to its prompt."""

    image: int
    prompt: bool


@dataclass(frozen=True)
class Rows:
    """N of them that share a token count.

    x `[N, C, h, w]`; levels `[N]`: sigma or timestep of each; context `[N, T, D]`; concat `[N, C', h, w]` and vector
    `[N, V]` where the model has such inputs.
    """

    x: Tensor
    levels: Tensor
    context: Tensor
    concat: Tensor | None
    numbers: tuple[Row, ...]
    vector: Tensor | None = None

    def split(self, size: int) -> list[Rows]:
        return [
            Rows(
                self.x[a : a + size],
                self.levels[a : a + size],
                self.context[a : a + size],
                None if self.concat is None else self.concat[a : a + size],
                self.numbers[a : a + size],
                None if self.vector is None else self.vector[a : a + size],
            )
            for a in range(0, len(self.x), size)
        ]


def merged(rows: list[Rows]) -> list[Rows]:
    """One run for neighbours of equal token count."""
    runs = rows[:1]
    for row in rows[1:]:
        if row.context.shape[1] != runs[-1].context.shape[1]:
            runs.append(row)
            continue
        last = runs[-1]
        runs[-1] = Rows(
            torch.cat([last.x, row.x]),
            torch.cat([last.levels, row.levels]),
            torch.cat([last.context, row.context]),
            _both(last.concat, row.concat),
            (*last.numbers, *row.numbers),
            _both(last.vector, row.vector),
        )
    return runs


def _both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else torch.cat([first, second])


def fit_by_last_vector(uncond: Tensor, length: int) -> Tensor:
    """The padding of DDIM before A1111 1.6: repeat the last vector, or cut."""
    missing = length - uncond.shape[1]
    if missing <= 0:
        return uncond[:, :length]
    return torch.cat([uncond, uncond[:, -1:].repeat(1, missing, 1)], dim=1)


def pad_by_prompt(context: Tensor, empty: Tensor, length: int) -> Tensor:
    """Append encodings of the empty prompt up to `length` tokens."""
    repeats = (length - context.shape[1]) // empty.shape[1]
    return torch.cat([context, empty.to(context).repeat(context.shape[0], repeats, 1)], dim=1)
