"""Train the embedded model from nothing: `python -m training.emoji_model --output FOLDER`

Phases: the VAE, the text encoder alone, text encoder and UNet together, then export and evaluation. The folder holds
the run's settings and checkpoints, and at the end emoji-mini.safetensors, its .yaml, samples.png and evaluation.md.
Ctrl-C saves; the same command with --resume goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from training.glyphs import Glyph
    from training.loop import Budget
    from training.models import Networks
    from training.settings import Settings

NAME = "emoji-mini"
PHASES = ("vae", "text", "diffusion")
# Of the minutes: as long as the shipped file spent on each, roughly.
_SHARES = {"vae": 0.25, "text": 0.05, "diffusion": 0.70}


@dataclass(frozen=True)
class Files:
    """What a run keeps in its folder."""

    folder: Path

    @property
    def settings(self) -> Path:
        return self.folder / "settings.json"

    @property
    def vae_state(self) -> Path:
        return self.folder / "vae.pt"

    @property
    def vae(self) -> Path:
        """The finished VAE; its existence means that phase is over."""
        return self.folder / "vae-finished.pt"

    @property
    def diffusion_state(self) -> Path:
        return self.folder / "diffusion.pt"

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{NAME}.safetensors"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.emoji_model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/emoji-model"), help="the run's folder")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output, with its settings")
    parser.add_argument("--minutes", type=float, help="for all phases together (default: 120 on a CPU, 30 on a GPU)")
    for phase in PHASES:
        parser.add_argument(f"--{phase}-steps", type=int, help=f"steps of the {phase} phase, instead of its minutes")
    parser.add_argument("--device", help="cuda, cpu, … (default: cuda when there is one)")
    parser.add_argument("--recipe", choices=("cpu", "gpu"), help="sizes, batches and scenes (default: by device)")
    parser.add_argument("--sizes", help="picture sizes, multiples of 64, e.g. 128,256,512")
    parser.add_argument("--batch", type=int, help="pictures per diffusion step at the smallest size")
    parser.add_argument("--scenes", type=int, help="encoded scenes kept per size")
    parser.add_argument("--glyphs", type=int, help="learn only the first N glyphs (for trying things out)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--start-from", type=Path, metavar="FILE", help="train this .safetensors file on (its VAE stays)"
    )
    parser.add_argument("--save-minutes", type=float, default=5.0, help="minutes between checkpoints (default 5)")
    parser.add_argument("--evaluate", type=int, nargs=2, default=(120, 60), metavar=("POPULAR", "OTHERS"))
    parser.add_argument("--tokenizer", type=Path, help="folder of CLIP's vocabulary (default: the server's)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    from training.glyphs import MissingPackage
    from training.loop import Interrupted

    try:
        run(options)
    except Interrupted as stopped:
        _say(str(stopped))
        return 130
    except (MissingPackage, FileExistsError, FileNotFoundError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


def run(options: argparse.Namespace) -> None:
    """All phases that are not finished yet, then export and evaluation."""
    import torch

    from training.glyphs import load_glyphs
    from training.settings import save_settings
    from training.vocabulary import load_tokenizer

    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    files = Files(options.output)
    settings = _settings(options, files, device.type)
    glyphs = load_glyphs(limit=settings.glyph_limit)
    tokenizer = load_tokenizer(options.tokenizer)
    save_settings(settings, files.settings)  # from here on the folder holds a run
    _say(f"{len(glyphs)} glyphs, sizes {settings.sizes}, on {device}; the run's folder is {files.folder}")
    budgets = _budgets(options, device.type)
    vae = _vae(options, settings, files, glyphs, device, budgets["vae"])
    networks = _diffusion(options, settings, files, glyphs, vae, tokenizer, device, budgets)
    finish(networks, settings, files, glyphs, tokenizer, device, tuple(options.evaluate))


def _settings(options: argparse.Namespace, files: Files, device_type: str) -> Settings:
    from training.settings import CPU, GPU, load_settings

    if options.resume:
        if not files.settings.is_file():
            raise FileNotFoundError(f"nothing to resume: {files.settings} does not exist")
        return load_settings(files.settings)
    if files.settings.is_file():
        raise FileExistsError(f"{files.folder} holds a run already: add --resume, or choose another --output")
    settings = {"cpu": CPU, "gpu": GPU}[options.recipe or ("gpu" if device_type == "cuda" else "cpu")]
    changes = {"batch": options.batch, "scenes": options.scenes, "glyph_limit": options.glyphs, "seed": options.seed}
    if options.sizes:
        changes["sizes"] = tuple(sorted(int(size) for size in options.sizes.split(",")))
    if options.start_from:
        from training.export import read_checkpoint

        changes["architecture"] = read_checkpoint(options.start_from)[1]
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})


def _budgets(options: argparse.Namespace, device_type: str) -> dict[str, Budget]:
    from training.loop import Budget

    minutes = options.minutes if options.minutes is not None else (30.0 if device_type == "cuda" else 120.0)
    given = {phase: getattr(options, f"{phase}_steps") for phase in PHASES}
    return {
        phase: Budget(minutes=minutes * _SHARES[phase]) if steps is None else Budget(steps=steps)
        for phase, steps in given.items()
    }


def _vae(
    options: argparse.Namespace,
    settings: Settings,
    files: Files,
    glyphs: Sequence[Glyph],
    device: torch.device,
    budget: Budget,
) -> Any:
    from training.loop import load_state, save_state
    from training.models import build_vae, prepare
    from training.vae import VaeTrainer

    if files.vae.is_file() or options.start_from:
        vae = prepare(build_vae(settings.architecture), device).eval()
        if not files.vae.is_file():
            from training.export import read_checkpoint

            save_state(files.vae, read_checkpoint(options.start_from)[0].vae.state_dict())
        vae.load_state_dict(load_state(files.vae, device))
        return vae
    trainer = VaeTrainer(settings, glyphs, device)
    if options.resume and files.vae_state.is_file():
        trainer.load(files.vae_state)
    trainer.run(budget, files.vae_state, options.save_minutes)
    vae = trainer.finished()
    save_state(files.vae, vae.state_dict())
    return vae


def _diffusion(
    options: argparse.Namespace,
    settings: Settings,
    files: Files,
    glyphs: Sequence[Glyph],
    vae: Any,
    tokenizer: Any,
    device: torch.device,
    budgets: dict[str, Budget],
) -> Networks:
    from training.diffusion import DiffusionTrainer
    from training.export import read_checkpoint, with_full_vocabulary
    from training.latents import LatentBatches
    from training.models import Networks
    from training.vocabulary import Vocabulary

    vocabulary = Vocabulary.of(glyphs, tokenizer)
    trainer = DiffusionTrainer(settings, vocabulary, device)
    if options.resume and files.diffusion_state.is_file():
        trainer.load(files.diffusion_state)
    elif options.start_from:
        given, _ = read_checkpoint(options.start_from)
        trainer.start_from(given.text_encoder, given.unet)
        trainer.save(files.diffusion_state)  # so that --resume finds these weights however early the run ends
    _say(f"drawing and encoding {len(settings.sizes) * (len(glyphs) + settings.scenes)} pictures")
    batches = LatentBatches(settings, glyphs, vae, vocabulary, tokenizer, device, trainer.position.steps)
    try:
        if trainer.phase == "text":
            trainer.run("text", budgets["text"], batches, files.diffusion_state, options.save_minutes)
        trainer.run("diffusion", budgets["diffusion"], batches, files.diffusion_state, options.save_minutes)
    finally:
        batches.close()
    text_encoder, unet = trainer.averaged()
    return Networks(vae, with_full_vocabulary(text_encoder, vocabulary, settings.architecture).to(device), unet)


def finish(
    networks: Networks,
    settings: Settings,
    files: Files,
    glyphs: Sequence[Glyph],
    tokenizer: Any,
    device: torch.device,
    counts: tuple[int, int],
) -> None:
    """Export, then evaluate what was written (not what was trained)."""
    from training.evaluate import SHEET_PROMPTS, draw_sheet, report
    from training.export import read_checkpoint, shift_text_mean, write_checkpoint
    from training.models import prepare
    from training.vocabulary import token_ids

    shift_text_mean(networks, token_ids(SHEET_PROMPTS, tokenizer).to(device))
    write_checkpoint(files.checkpoint, networks, settings.architecture, settings.native_size)
    _say(f"wrote {files.checkpoint} ({files.checkpoint.stat().st_size / 1e6:.1f} MB)")
    written, _ = read_checkpoint(files.checkpoint)
    for network in (written.vae, written.text_encoder, written.unet):
        prepare(network, device)
    draw_sheet(written, tokenizer, files.folder / "samples.png", settings.native_size)
    if any(counts):
        table = report(written, tokenizer, glyphs, counts)
        (files.folder / "evaluation.md").write_text(table + "\n", encoding="utf-8")
        print(table)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
