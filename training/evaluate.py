"""Does the model draw what it is asked for? `python -m training.evaluate CHECKPOINT`

For "a <name>" the picture is compared with every glyph (16x16 RGB, Euclidean distance). Top-k: the named glyph is
among the k nearest. DDIM, 20 steps, guidance 5, as in the table of training/README.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from training.captions import plain_caption
from training.export import read_checkpoint
from training.glyphs import Glyph, load_glyphs
from training.models import LATENT_SCALE, SCALE_FACTOR, Networks, autocast, prepare
from training.pictures import draw_crops, to_images
from training.sampling import ddim
from training.scenes import Composer, Placed, Scene, draw_scene
from training.vae import reconstruction_psnr
from training.vocabulary import load_tokenizer, token_ids

SHEET_PROMPTS = (
    "a red apple", "a cat face", "a rocket", "a pizza on a blue background", "a dog and a rocket", "a red car",
    "a small banana on a green background", "a house", "a panda", "a red heart", "a strawberry", "a cat and a pizza",
    "a smiling face with sunglasses", "a large penguin on a yellow background", "a sunflower", "a tiger",
    "a guitar on a pink background", "a robot", "a green apple", "a lion", "a frog", "a birthday cake",
    "a yellow star on a dark blue background", "a cactus", "a fish", "a butterfly", "an owl", "a hamburger",
    "a ghost on a purple background", "an airplane",
)  # fmt: skip


@dataclass(frozen=True)
class Score:
    """Shares of the drawn prompts whose glyph came out nearest, among the 5 nearest, among the 20 nearest."""

    group: str
    count: int
    top1: float
    top5: float
    top20: float

    def __str__(self) -> str:
        return f"| {self.group} | {self.count} | {self.top1:.0%} | {self.top5:.0%} | {self.top20:.0%} |"


@torch.no_grad()
def draw(
    networks: Networks,
    tokenizer: Any,
    prompts: Sequence[str],
    size: int = 128,
    steps: int = 20,
    guidance: float = 5.0,
    seed: int = 0,
    negative: str = "",
    batch: int = 15,
) -> Iterator[Tensor]:
    """Pictures [3, size, size] in about [-1, 1], one per prompt, by DDIM. The text encoder has CLIP's vocabulary."""
    device = next(networks.unet.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(prompts), batch):
        some = list(prompts[start : start + batch])
        cells = size // LATENT_SCALE
        latents = torch.randn(len(some), 4, cells, cells, generator=generator).to(device)
        with autocast(device):
            ids = token_ids([*some, *[negative] * len(some)], tokenizer).to(device)
            conditioning = networks.text_encoder(input_ids=ids).last_hidden_state
            latents = ddim(partial(_eps, networks.unet, conditioning), latents, steps, guidance)
            for latent in latents:
                yield networks.vae.decode(latent[None] / SCALE_FACTOR).sample[0].float()


def _eps(unet: Any, conditioning: Tensor, x: Tensor, times: Tensor) -> Tensor:
    return unet(x, times, conditioning).sample


def evaluate(
    networks: Networks, tokenizer: Any, glyphs: Sequence[Glyph], popular: int = 120, others: int = 60, seed: int = 0
) -> list[Score]:
    """Scores of a random sample of popular and of other glyphs, each against all `glyphs`; none of an empty sample."""
    random = Random(seed)
    references = np.stack([_fingerprint(draw_scene(Scene((Placed(glyph),)), 128, 128)) for glyph in glyphs])
    scores = []
    for group, wanted, count in (("popular glyphs", True, popular), ("other glyphs", False, others)):
        members = [i for i, glyph in enumerate(glyphs) if glyph.emoji.popular is wanted]
        chosen = random.sample(members, min(count, len(members)))
        if not chosen:
            continue
        prompts = [plain_caption(glyphs[i].emoji) for i in chosen]
        pictures = to_images(torch.stack(list(draw(networks, tokenizer, prompts, seed=seed))))
        ranks = [_rank(_fingerprint(picture), references, i) for picture, i in zip(pictures, chosen, strict=True)]
        top = [float(np.mean([rank < k for rank in ranks])) for k in (1, 5, 20)]
        scores.append(Score(group, len(ranks), *top))
    return scores


def _fingerprint(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((16, 16), Image.Resampling.BOX), np.float32).reshape(-1)


def _rank(fingerprint: np.ndarray, references: np.ndarray, expected: int) -> int:
    distances = np.linalg.norm(references - fingerprint, axis=1)
    return int((distances < distances[expected]).sum())


def contact_sheet(pictures: Sequence[Image.Image], labels: Sequence[str], columns: int = 6) -> Image.Image:
    """Pictures in rows with their prompt underneath, in 256 colours to keep the file small."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    line, gap, lines = 11, 6, 2
    sheet = Image.new("RGB", (columns * (width + gap), rows * (height + lines * line + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x, y = number % columns * (width + gap) + gap // 2, number // columns * (height + lines * line + gap)
        sheet.paste(picture, (x, y))
        for row, text in enumerate(_wrapped(label, width, pen)[:lines]):
            pen.text((x, y + height + row * line), text, fill="black")
    palette = sheet.quantize(256, kmeans=1)
    return sheet.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def _wrapped(text: str, width: int, pen: ImageDraw.ImageDraw) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def report(networks: Networks, tokenizer: Any, glyphs: Sequence[Glyph], counts: tuple[int, int]) -> str:
    """The table of scores as Markdown, and how well the VAE restores 32 scenes."""
    scores = evaluate(networks, tokenizer, glyphs, *counts)
    scenes = draw_crops(Composer(glyphs), Random(0), 32, 128, 128).to(networks.vae.device)
    lines = ["| set | n | top-1 | top-5 | top-20 |", "|---|---|---|---|---|", *map(str, scores), ""]
    return "\n".join([*lines, f"VAE reconstruction: {reconstruction_psnr(networks.vae, scenes):.1f} dB"])


def draw_sheet(networks: Networks, tokenizer: Any, path: Path, size: int, seed: int = 0) -> None:
    pictures = to_images(torch.stack(list(draw(networks, tokenizer, SHEET_PROMPTS, size=size, seed=seed))))
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(pictures, SHEET_PROMPTS).save(path, optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--popular", type=int, default=120, help="how many popular glyphs to draw (default 120)")
    parser.add_argument("--others", type=int, default=60, help="how many other glyphs to draw (default 60)")
    parser.add_argument("--sheet", type=Path, help="write a labelled contact sheet here")
    parser.add_argument("--size", type=int, default=128, help="pixels of the contact sheet's pictures (default 128)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokenizer", type=Path, help="folder of CLIP's vocab.json and merges.txt")
    options = parser.parse_args(arguments)
    networks, _ = read_checkpoint(options.checkpoint)
    device = torch.device(options.device)
    for network in (networks.vae, networks.text_encoder, networks.unet):
        prepare(network, device)
    tokenizer = load_tokenizer(options.tokenizer)
    if options.sheet:
        draw_sheet(networks, tokenizer, options.sheet, options.size)
    if options.popular or options.others:
        print(report(networks, tokenizer, load_glyphs(), (options.popular, options.others)))


if __name__ == "__main__":
    main()
