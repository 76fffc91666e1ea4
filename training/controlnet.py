"""Train a Canny ControlNet for the embedded model: `python -m training.controlnet --output FOLDER`

Phases: the hint encoder alone learns to keep the edges of each latent cell; then the whole ControlNet learns with the
frozen UNet. The folder holds the run's settings and checkpoint, and the file that followed its hints best so far.
Ctrl-C saves; the same command with --resume goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from training.adaptation import begin_run, build_parser, command, device_of, frozen_networks, say, settings_of_run

if TYPE_CHECKING:
    from training.control_data import HintBatches
    from training.control_trainer import ControlTrainer, Keeper, Phase

NAME = "emoji-mini-canny"
_HINT_SHARE = 0.05  # of the minutes, for the hint encoder alone


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser("training.controlnet", __doc__, "outputs/controlnet")
    parser.add_argument("--minutes", type=float, help="for both phases (default: 45 on a CPU, 10 on a GPU)")
    parser.add_argument("--hint-steps", type=int, help="steps of the hint encoder alone, instead of its minutes")
    parser.add_argument("--control-steps", type=int, help="steps of the ControlNet, instead of its minutes")
    return command(parser, run, arguments)


def run(options: argparse.Namespace) -> None:
    """Both phases, as far as they are not finished yet."""
    from training.control_data import ControlSettings, HintBatches, HintedComposer
    from training.control_trainer import ControlTrainer, Keeper
    from training.glyphs import load_glyphs
    from training.vocabulary import load_tokenizer

    device, settings = device_of(options), settings_of_run(options, ControlSettings())
    networks, architecture = frozen_networks(Path(settings.base), device)
    glyphs, tokenizer = load_glyphs(limit=settings.glyph_limit), load_tokenizer(options.tokenizer)
    begin_run(options, settings)
    trainer = ControlTrainer(settings, networks, device)
    state, file = options.output / "controlnet.pt", options.output / f"{NAME}.safetensors"
    if options.resume and state.is_file():
        trainer.load(state)
    say(f"{len(glyphs)} glyphs on {device}; drawing and encoding {settings.scenes} pictures")
    composer = HintedComposer(glyphs, settings.size)
    batches = HintBatches(composer, networks.vae, tokenizer, settings, trainer.position.steps)
    try:
        train(trainer, Keeper(trainer, architecture, tokenizer, glyphs, state, file), batches, options)
    finally:
        batches.close()
    say(f"best edge agreement {trainer.best:.3f}: {file} ({file.stat().st_size / 1e6:.1f} MB)")


def train(trainer: ControlTrainer, keeper: Keeper, batches: HintBatches, options: argparse.Namespace) -> None:
    from training.loop import Budget, Loop

    minutes = options.minutes if options.minutes is not None else (10.0 if trainer.device.type == "cuda" else 45.0)
    phases: list[tuple[Phase, int | None, float]] = [
        ("hint", options.hint_steps, _HINT_SHARE),
        ("control", options.control_steps, 1 - _HINT_SHARE),
    ]

    def step(number: int, progress: float) -> dict[str, float]:
        metrics = trainer.step(batches.batch(number), progress)
        batches.refresh(number)
        return metrics

    for phase, steps, share in phases:
        if phase == "hint" and trainer.phase != "hint":
            continue
        trainer.start(phase)
        budget = Budget(minutes=minutes * share) if steps is None else Budget(steps=steps)
        Loop(phase, budget, keeper.save, options.save_minutes).run(step, trainer.position)


if __name__ == "__main__":
    sys.exit(main())
