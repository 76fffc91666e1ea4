"""A folder of images as latents with captions, and the batches that are drawn from it."""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdwebui_api.engine.training.captions import FileNameWords, PromptWriter, caption_of
from sdwebui_api.errors import BadRequest
from sdwebui_api.imaging.codec import read_image

if TYPE_CHECKING:
    from sdwebui_api.engine.model import DiffusionModel

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl", ".tif", ".tiff")
MAX_IMAGES = 20_000
MAX_BYTES = 2**28
"""Of an image file."""
MAX_SIDE = 2048
"""Of an image that is taken at its own size."""

LatentSampling = Literal["once", "deterministic", "random"]


@dataclass(frozen=True)
class ImageRules:
    """How files become latents."""

    width: int
    height: int
    varsize: bool = False
    """Every image at its own size, cut to whole latent cells, instead of `width` x `height`."""
    use_weight: bool = False
    """The alpha channel says how much each part of an image counts."""
    latent_sampling: LatentSampling = "once"
    """The posterior's mode (`deterministic`), one draw for good (`once`), or a new draw every time (`random`)."""


@dataclass(frozen=True)
class Example:
    """One image. Tensors are float32 on the CPU."""

    name: str
    caption: str
    mean: Tensor
    """[4, h, w], scaled; the latent itself unless there is `std`."""
    std: Tensor | None = None
    weight: Tensor | None = None
    """[1, h, w] with mean 1."""

    def latent(self, noise: torch.Generator) -> Tensor:
        return self.mean if self.std is None else self.mean + self.std * torch.randn(self.mean.shape, generator=noise)


@dataclass(frozen=True)
class Batch:
    """Examples of one size, ready to be learned from."""

    latents: Tensor
    """[B, 4, h, w]"""
    prompts: tuple[str, ...]
    weights: Tensor | None
    """[B, 1, h, w]"""


@dataclass(frozen=True)
class Dataset:
    examples: tuple[Example, ...]
    writer: PromptWriter

    def batches(self, size: int, seed: int) -> Iterator[Batch]:
        """Without end: every example once per epoch, in random order; a batch has images of one size only."""
        dice, noise = random.Random(seed), torch.Generator().manual_seed(seed)
        while True:
            for group in self._epoch(size, dice):
                yield self._batch(group, dice, noise)

    def _epoch(self, size: int, dice: random.Random) -> list[list[Example]]:
        by_shape: dict[torch.Size, list[Example]] = defaultdict(list)
        for example in dice.sample(self.examples, len(self.examples)):
            by_shape[example.mean.shape].append(example)
        groups = [found[i : i + size] for found in by_shape.values() for i in range(0, len(found), size)]
        dice.shuffle(groups)
        return groups

    def _batch(self, group: Sequence[Example], dice: random.Random, noise: torch.Generator) -> Batch:
        weights = [example.weight for example in group if example.weight is not None]
        return Batch(
            latents=torch.stack([example.latent(noise) for example in group]),
            prompts=tuple(self.writer.prompt(example.caption, dice) for example in group),
            weights=torch.stack(weights) if len(weights) == len(group) else None,
        )


def image_files(folder: Path, boundary: Path, field: str = "data_root") -> list[Path]:
    """The images directly in `folder`, in order of their names. Links that lead out of `boundary` are left out.

    Raises BadRequest naming `field` when there is none, or too many.
    """
    limit = boundary.resolve()
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and path.is_file() and limit in path.resolve().parents
    ]
    if not files:
        raise BadRequest(f"There is no image in {folder.name!r}", field=field)
    if len(files) > MAX_IMAGES:
        raise BadRequest(f"More than {MAX_IMAGES} images are more than fit in memory", field=field)
    return files


def read_examples(
    model: DiffusionModel,
    files: Iterable[Path],
    rules: ImageRules,
    names: FileNameWords,
    seed: int,
    on_image: Callable[[int], None],
) -> tuple[Example, ...]:
    """Encode `files` with the model's VAE; `on_image` is told how many are done. Broken images are left out."""
    noise = torch.Generator().manual_seed(seed)
    examples = []
    for index, path in enumerate(files):
        on_image(index)
        try:
            image = _open(path, rules, model.latent_scale)
        except (OSError, ValueError, BadRequest) as error:
            log.warning("training goes on without the image %s: %s", path.name, error)
            continue
        caption = caption_of(path, names)
        examples.append(_encoded(model, path.name, caption, image, rules, noise))
    return tuple(examples)


def _open(path: Path, rules: ImageRules, cell: int) -> Image.Image:
    """RGB or RGBA at the size it is learned at. Raises ValueError and BadRequest for files that do not serve."""
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"files of more than {MAX_BYTES} bytes are not read")
    image = read_image(path.read_bytes(), "data_root")
    image = image.convert("RGBA" if rules.use_weight and image.has_transparency_data else "RGB")
    if not rules.varsize:
        return image.resize((rules.width, rules.height), Image.Resampling.BICUBIC)
    return _cut_to_cells(image, cell)


def _cut_to_cells(image: Image.Image, cell: int) -> Image.Image:
    """The middle of `image`, whole latent cells in both directions."""
    width, height = image.width // cell * cell, image.height // cell * cell
    if min(width, height) < 8 * cell or max(width, height) > MAX_SIDE:
        raise ValueError(f"sides have to be {8 * cell} to {MAX_SIDE} pixels long")
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _encoded(
    model: DiffusionModel, name: str, caption: str, image: Image.Image, rules: ImageRules, noise: torch.Generator
) -> Example:
    pixels = torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32)).permute(2, 0, 1)[None] / 127.5 - 1.0
    mean = model.encode(pixels.to(model.device), None)
    weight = _weight(image, mean) if rules.use_weight else None
    std = None
    if rules.latent_sampling != "deterministic":
        # A draw of all ones lies one standard deviation above the mean.
        std = (model.encode(pixels.to(model.device), torch.ones_like(mean)) - mean)[0].cpu()
    example = Example(name, caption, mean[0].cpu(), std, weight)
    if rules.latent_sampling == "once":
        return Example(name, caption, example.latent(noise), None, weight)
    return example


def _weight(image: Image.Image, latent: Tensor) -> Tensor:
    """[1, h, w] with mean 1; ones where the image has no transparency, or nothing else."""
    height, width = latent.shape[-2:]
    if image.mode != "RGBA":
        return torch.ones(1, height, width)
    alpha = image.getchannel("A").resize((width, height), Image.Resampling.BOX)
    weight = torch.from_numpy(np.array(alpha, dtype=np.float32))[None]
    mean = weight.mean()
    return weight / mean if mean > 0 else torch.ones_like(weight)
