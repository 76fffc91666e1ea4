"""Train a style LoRA for the embedded model: `python -m training.style_lora --output FOLDER`

The style is "blueprint": the glyph pictures inverted into shades of blue on navy, with white outlines. The folder
holds the run's settings and checkpoint, and at the end the LoRA and samples.png. Ctrl-C saves; the same command with
--resume goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.adaptation import (
    begin_run,
    build_parser,
    command,
    device_of,
    frozen_networks,
    say,
    settings_of_run,
    write_half,
)

if TYPE_CHECKING:
    from training.models import Architecture
    from training.style_trainer import StyleTrainer

NAME = "emoji-blueprint"
SHEET_PROMPTS = ("a red apple", "a cat face", "a rocket", "a pizza", "a red car", "a panda")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser("training.style_lora", __doc__, "outputs/style-lora")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training (default 10)")
    parser.add_argument("--steps", type=int, help="steps of training, instead of its minutes")
    parser.add_argument("--rank", type=int, help="of the additions (default 8)")
    return command(parser, run, arguments)


def run(options: argparse.Namespace) -> None:
    from training.glyphs import load_glyphs
    from training.loop import Budget, Loop
    from training.style_trainer import StyleBatches, StyleSettings, StyleTrainer
    from training.vocabulary import load_tokenizer

    device, settings = device_of(options), settings_of_run(options, StyleSettings())
    networks, architecture = frozen_networks(Path(settings.base), device)
    glyphs, tokenizer = load_glyphs(limit=settings.glyph_limit), load_tokenizer(options.tokenizer)
    begin_run(options, settings)
    trainer, state = StyleTrainer(settings, networks, device), options.output / "style.pt"
    if options.resume and state.is_file():
        trainer.load(state)
    say(f"{len(glyphs)} glyphs on {device}; drawing and encoding {settings.scenes} pictures")
    batches = StyleBatches(glyphs, networks, tokenizer, settings)
    budget = Budget(minutes=options.minutes) if options.steps is None else Budget(steps=options.steps)
    loop = Loop("style", budget, lambda _: trainer.save(state), options.save_minutes)
    loop.run(lambda number, progress: trainer.step(*batches.batch(number), progress), trainer.position)
    finish(trainer, architecture, tokenizer, options.output)


def finish(trainer: StyleTrainer, architecture: Architecture, tokenizer: Any, folder: Path) -> None:
    """Write the averaged LoRA, and pictures without it (above) and with it (below)."""
    import torch

    from training.evaluate import contact_sheet, draw
    from training.lora_layers import lora_to_kohya
    from training.pictures import to_images
    from training.style_trainer import metadata

    trainer.ema.swap()
    path, pictures = folder / f"{NAME}.safetensors", []
    write_half(
        path, lora_to_kohya(trainer.lora, architecture), metadata(NAME, trainer.settings, trainer.position.steps)
    )
    for trainer.lora.weight in (0.0, 1.0):
        pictures += to_images(torch.stack(list(draw(trainer.networks, tokenizer, SHEET_PROMPTS))))
    labels = [*SHEET_PROMPTS, *(f"{prompt} <lora:{NAME}:1>" for prompt in SHEET_PROMPTS)]
    contact_sheet(pictures, labels).save(folder / "samples.png", optimize=True)
    say(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB) and samples.png")


if __name__ == "__main__":
    sys.exit(main())
