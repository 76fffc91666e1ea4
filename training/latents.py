"""Training batches of latents and captions: scenes are encoded once and captioned anew each time they are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from training.captions import training_caption
from training.glyphs import Glyph
from training.loop import step_random
from training.models import SCALE_FACTOR, autocast
from training.pictures import Ahead, to_tensor
from training.scenes import Composer, Placed, Scene, draw_scene
from training.settings import Settings
from training.vocabulary import Vocabulary

_UNKNOWN_WORDS_SHARE = 0.10


@dataclass
class _Store:
    """Scenes and their latents [n, 4, size/8, size/8] on the training device."""

    scenes: list[Scene]
    latents: Tensor


class LatentBatches:
    """Per size: every glyph centred on white, and a pool of other scenes that is slowly replaced."""

    def __init__(
        self,
        settings: Settings,
        glyphs: Sequence[Glyph],
        vae: Any,
        vocabulary: Vocabulary,
        tokenizer: Any,
        device: torch.device,
        start: int = 0,
    ) -> None:
        """`start`: the step at which a resumed run goes on, so that it gets other pictures than its first part."""
        self._settings, self._vae, self._device = settings, vae, device
        self._vocabulary, self._tokenizer = vocabulary, tokenizer
        self._composer = Composer(glyphs, settings.mix)
        self._others = Composer(glyphs, replace(settings.mix, single=0.0))
        centred = [Scene((Placed(glyph),)) for glyph in glyphs]
        self._centred = {size: self._store(centred, size) for size in settings.sizes}
        self._index = {id(glyph): i for i, glyph in enumerate(glyphs)}
        random = step_random(settings.seed, "scenes", start)
        self._pool = {
            size: self._store([self._others.scene(random) for _ in range(settings.scenes)], size)
            for size in settings.sizes
        }
        self._replacements = Ahead(self._draw_replacements)

    def batch(self, step: int, size_of_batch: int | None = None) -> tuple[Tensor, Tensor]:
        """Latents [B, 4, h, w] and compact token ids [B, 77] of one step, all of one size."""
        random = step_random(self._settings.seed, "batch", step)
        size = random.choice(self._settings.sizes)
        count = self._settings.batch_at(size_of_batch or self._settings.batch, size)
        latents, captions = [], []
        for _ in range(count):
            store, index = self._choose(random, size)
            latents.append(store.latents[index])
            captions.append(training_caption(store.scenes[index], random))
        ids = self._vocabulary.encode(captions, self._tokenizer)
        for row in range(count):
            if random.random() < _UNKNOWN_WORDS_SHARE:
                ids[row] = self._vocabulary.with_unknown_words(ids[row], random)
        return torch.stack(latents).contiguous(memory_format=torch.channels_last), ids.to(self._device)

    def refresh(self, step: int) -> None:
        """Replace a few scenes of the pool."""
        if not self._settings.refreshed:
            return
        size, scenes, pictures = self._replacements(step)
        random, store = step_random(self._settings.seed, "places", step), self._pool[size]
        for scene, latent in zip(scenes, self._encode(pictures), strict=True):
            index = random.randrange(len(store.scenes))
            store.scenes[index], store.latents[index] = scene, latent

    def close(self) -> None:
        self._replacements.close()

    def _choose(self, random: Random, size: int) -> tuple[_Store, int]:
        mix = self._settings.mix
        total = mix.single + mix.varied + mix.pair + mix.stack + mix.triple + mix.several
        if random.random() * total < mix.single:
            return self._centred[size], self._index[id(self._composer.glyph(random))]
        return self._pool[size], random.randrange(len(self._pool[size].scenes))

    def _draw_replacements(self, step: int) -> tuple[int, list[Scene], Tensor]:
        random = step_random(self._settings.seed, "replacements", step)
        size = random.choice(self._settings.sizes)
        scenes = [self._others.scene(random) for _ in range(self._settings.refreshed)]
        return size, scenes, to_tensor([draw_scene(scene, size, size) for scene in scenes])

    def _store(self, scenes: list[Scene], size: int) -> _Store:
        """Draw and encode `scenes`, a few at a time."""
        per_batch = self._settings.batch_at(16, size)
        parts = []
        for start in range(0, len(scenes), per_batch):
            drawn = [draw_scene(scene, size, size) for scene in scenes[start : start + per_batch]]
            parts.append(self._encode(to_tensor(drawn)))
        return _Store(list(scenes), torch.cat(parts))

    @torch.no_grad()
    def _encode(self, pictures: Tensor) -> Tensor:
        pictures = pictures.to(self._device, memory_format=torch.channels_last)
        with autocast(self._device):
            return self._vae.encode(pictures).latent_dist.mean.float() * SCALE_FACTOR
