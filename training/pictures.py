"""From scenes to tensors, with the next batch drawn on a thread while the current one is learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random
from typing import Generic, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from training.scenes import Composer, draw_scene

T = TypeVar("T")


def to_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """Equally sized RGB pictures as float32 [B, 3, H, W] in [-1, 1], channels last."""
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)


def to_images(tensor: Tensor) -> list[Image.Image]:
    """[B, 3, H, W] in [-1, 1] as RGB pictures; values outside are clipped."""
    pixels = ((tensor.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def draw_crops(composer: Composer, random: Random, count: int, size: int, crop: int) -> Tensor:
    """`count` random scenes drawn at `size`, half of them mirrored, cut down to `crop` pixels near the middle."""
    pictures = []
    for _ in range(count):
        picture = draw_scene(composer.scene(random), size, size)
        left, top = (min(size - crop, max(0, round(random.gauss((size - crop) / 2, size / 7)))) for _ in "xy")
        picture = picture.crop((left, top, left + crop, top + crop))
        pictures.append(ImageOps.mirror(picture) if random.random() < 0.5 else picture)
    return to_tensor(pictures)


class Ahead(Generic[T]):
    """Calls `make(step)` one step ahead of its use. `make` must depend on nothing but the step's number."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(1, "draw-ahead")
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        if self._next is not None and self._next[0] == step:
            result = self._next[1].result()
        else:
            result = self._make(step)
        self._next = (step + 1, self._thread.submit(self._make, step + 1))
        return result

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
