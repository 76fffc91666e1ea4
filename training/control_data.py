"""Training batches for the ControlNet: latents, Canny hints and captions of scenes with objects anywhere.

Pictures are drawn and encoded once and kept; hints and captions are made anew each time a picture is used. Objects
stand at random places in random sizes, so that only the hint can tell where: by its captions alone the embedded model
draws everything in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from training.adaptation import BASE
from training.captions import caption
from training.edges import Edges, varied_canny
from training.glyphs import Glyph
from training.loop import step_random
from training.models import SCALE_FACTOR, autocast
from training.pictures import Ahead, to_tensor
from training.scenes import Composer, Placed, Scene, SceneMix, draw_scene
from training.vocabulary import token_ids

CAPTION_SHARE = 0.5  # the others are empty, so that the hint must govern
# Share of the scenes as in the base model's training; the others have objects anywhere.
_USUAL_SHARE = 0.4
_USUAL = SceneMix(single=0.4, varied=0.4, pair=0.2, popular_weight=4.0)


@dataclass(frozen=True)
class ControlSettings:
    """Kept in the run's folder. `scenes`: encoded pictures kept, of which `refreshed` are replaced each step."""

    base: str = str(BASE)
    size: int = 128
    batch: int = 16
    scenes: int = 800
    refreshed: int = 1
    muon_rate: float = 2e-3
    adam_rate: float = 1e-3
    glyph_limit: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Picture:
    scene: Scene
    image: Image.Image


class HintedComposer:
    """Random pictures whose objects may be anywhere. Same glyphs and `random` state: same pictures."""

    def __init__(self, glyphs: Sequence[Glyph], size: int) -> None:
        self._composer, self._size = Composer(glyphs, _USUAL), size

    def picture(self, random: Random) -> Picture:
        if random.random() < _USUAL_SHARE:
            scene = self._composer.scene(random)
        else:
            scene = self.scattered(random)
        image = draw_scene(scene, self._size, self._size)
        return Picture(scene, ImageOps.mirror(image) if random.random() < 0.4 else image)

    def scattered(self, random: Random) -> Scene:
        """One to three objects of any size at any place, on any plain background."""
        count = random.choices([1, 2, 3], [0.6, 0.25, 0.15])[0]
        smallest, largest = (0.35, 1.1) if count == 1 else (0.28, 0.6)
        placed = tuple(
            Placed(self._composer.glyph(random), random.uniform(0.2, 0.8), random.uniform(0.2, 0.8),
                   random.uniform(smallest, largest))
            for _ in range(count)
        )  # fmt: skip
        return Scene(placed, self._composer.background(random, 0.5), "varied")


@dataclass(frozen=True)
class Batch:
    latents: Tensor  # [B, 4, h, w], unit variance
    hints: Tensor  # [B, 3, 8h, 8w], 0 or 1
    token_ids: Tensor  # CLIP's, [B, 77]


class HintBatches:
    """A pool of encoded pictures that is slowly replaced."""

    def __init__(
        self, composer: HintedComposer, vae: Any, tokenizer: Any, settings: ControlSettings, start: int = 0
    ) -> None:
        """`start`: the step at which a resumed run goes on, so that it gets other pictures than its first part."""
        self._composer, self._vae, self._tokenizer, self._settings = composer, vae, tokenizer, settings
        self._device, self._seed, pool = vae.device, settings.seed, settings.scenes
        random = step_random(self._seed, "control pictures", start)
        self._pictures = [composer.picture(random) for _ in range(pool)]
        self._latents = torch.cat([self._encode(self._pictures[at : at + 16]) for at in range(0, pool, 16)])
        self._replacements = Ahead(self._draw_replacements)

    def batch(self, step: int) -> Batch:
        random = step_random(self._seed, "control batch", step)
        chosen = random.sample(range(len(self._pictures)), min(self._settings.batch, len(self._pictures)))
        pictures = [self._pictures[i] for i in chosen]
        hints = hint_tensor([varied_canny(picture.image, random) for picture in pictures])
        captions = [caption(p.scene, random) if random.random() < CAPTION_SHARE else "" for p in pictures]
        latents = self._latents[chosen].contiguous(memory_format=torch.channels_last)
        return Batch(latents, hints.to(self._device), token_ids(captions, self._tokenizer).to(self._device))

    def refresh(self, step: int) -> None:
        """Replace a few pictures of the pool."""
        if not self._settings.refreshed:
            return
        pictures = self._replacements(step)
        random = step_random(self._seed, "control places", step)
        for picture, latent in zip(pictures, self._encode(pictures), strict=True):
            index = random.randrange(len(self._pictures))
            self._pictures[index], self._latents[index] = picture, latent

    def close(self) -> None:
        self._replacements.close()

    def _draw_replacements(self, step: int) -> list[Picture]:
        random = step_random(self._seed, "control replacements", step)
        return [self._composer.picture(random) for _ in range(self._settings.refreshed)]

    @torch.no_grad()
    def _encode(self, pictures: Sequence[Picture]) -> Tensor:
        pixels = to_tensor([picture.image for picture in pictures])
        pixels = pixels.to(self._device, memory_format=torch.channels_last)
        with autocast(self._device):
            return self._vae.encode(pixels).latent_dist.mean.float() * SCALE_FACTOR


def hint_tensor(edges: Sequence[Edges]) -> Tensor:
    """Edge maps as the ControlNet reads them: float32 [B, 3, H, W], 0 or 1, three equal channels."""
    maps = torch.from_numpy(np.stack(edges)).float()[:, None]
    return maps.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
