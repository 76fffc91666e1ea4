"""Does the ControlNet make pictures follow their hints? Edge agreement over fixed cases, with and without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from training.captions import plain_caption
from training.control_data import hint_tensor
from training.edges import Edges, agreement, canny
from training.glyphs import Glyph
from training.models import LATENT_SCALE, SCALE_FACTOR, Networks, autocast
from training.pictures import to_images
from training.sampling import ddim
from training.scenes import Background, Placed, Scene, draw_scene
from training.vocabulary import token_ids


@dataclass(frozen=True)
class Case:
    """A prompt, and the hint that tells where and how its object is to be drawn."""

    prompt: str
    source: Image.Image
    hint: Edges
    seed: int


def cases(glyphs: Sequence[Glyph], count: int = 20, size: int = 128, seed: int = 1000) -> list[Case]:
    """Popular glyphs, mirrored, off the middle and in an unusual size, on white; the prompt only names them."""
    popular = [glyph for glyph in glyphs if glyph.emoji.popular] or list(glyphs)
    return [_case(Random(f"control case {seed + i}"), popular, size, seed + i) for i in range(count)]


def _case(random: Random, glyphs: Sequence[Glyph], size: int, seed: int) -> Case:
    glyph, extent = random.choice(glyphs), random.uniform(0.5, 0.7)
    margin = extent / 2 + 0.02
    x, y = (random.choice([random.uniform(margin, 0.42), random.uniform(0.58, 1 - margin)]) for _ in "xy")
    picture = ImageOps.mirror(draw_scene(Scene((Placed(glyph, x, y, extent),), Background()), size, size))
    return Case(plain_caption(glyph.emoji), picture, canny(picture), seed)


@torch.no_grad()
def draw_controlled(
    networks: Networks,
    control: Any | None,
    tokenizer: Any,
    prompts: Sequence[str],
    hints: Sequence[Edges],
    seeds: Sequence[int],
    steps: int = 12,
    guidance: float = 5.0,
) -> list[Image.Image]:
    """Pictures of the hints' size by DDIM, the ControlNet (None: without) on both halves of the guidance."""
    device = next(networks.unet.parameters()).device
    condition = hint_tensor(hints).to(device)
    cells = [length // LATENT_SCALE for length in condition.shape[2:]]
    noise = [torch.randn(4, *cells, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    with autocast(device):
        ids = token_ids([*prompts, *[""] * len(prompts)], tokenizer).to(device)
        context = networks.text_encoder(input_ids=ids).last_hidden_state
        both = torch.cat([condition, condition])
        latents = ddim(
            lambda x, t: predict(networks.unet, control, x, t, context, both),
            torch.stack(noise).to(device), steps, guidance,
        )  # fmt: skip
        decoded = [networks.vae.decode(latent[None] / SCALE_FACTOR).sample[0].float() for latent in latents]
    return to_images(torch.stack(decoded))


def predict(unet: Any, control: Any | None, x: Tensor, t: Tensor, context: Tensor, hints: Tensor) -> Tensor:
    """The UNet's output [B, 4, h, w] with the ControlNet's residuals added to its skip connections."""
    if control is None:
        return unet(x, t, context).sample
    down, middle = control(x, t, context, hints, return_dict=False)
    residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    return unet(x, t, context, **residuals).sample


def mean_agreement(
    networks: Networks,
    control: Any | None,
    tokenizer: Any,
    some: Sequence[Case],
    prompted: bool = True,
    steps: int = 12,
) -> float:
    """Mean F1 of the drawn pictures' edges against the hints. `prompted` False: empty prompts."""
    scores: list[float] = []
    for start in range(0, len(some), 10):
        part = some[start : start + 10]
        prompts = [case.prompt if prompted else "" for case in part]
        hints, seeds = [case.hint for case in part], [case.seed for case in part]
        pictures = draw_controlled(networks, control, tokenizer, prompts, hints, seeds, steps)
        scores += [agreement(case.hint, canny(picture)) for case, picture in zip(part, pictures, strict=True)]
    return float(np.mean(scores))
