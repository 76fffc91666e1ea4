"""What training something beside a frozen UNet has in common: its command, the frozen networks, the loss."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from training.models import Architecture, Networks

BASE = Path("model_store/Stable-diffusion/emoji-mini.safetensors")
LICENCE = "Apache-2.0; training pictures drawn with Noto Color Emoji (SIL OFL 1.1)"
_FLOOR = 0.1  # of the signal-to-noise ratio in the loss's weight

SettingsT = TypeVar("SettingsT")


def build_parser(program: str, description: str | None, folder: str) -> argparse.ArgumentParser:
    """The flags that all adaptations share; `dest` of those that change a setting is the setting's name."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path(folder), help="the run's folder")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output, with its settings")
    parser.add_argument("--device", help="cuda, cpu, … (default: cuda when there is one)")
    parser.add_argument("--base", help=f"the model to train for (default {BASE})")
    parser.add_argument("--batch", type=int, help="pictures per step")
    parser.add_argument("--scenes", type=int, help="encoded pictures kept")
    parser.add_argument("--glyphs", dest="glyph_limit", type=int, help="use only the first N glyphs")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--save-minutes", type=float, default=5.0, help="minutes between checkpoints (default 5)")
    parser.add_argument("--tokenizer", type=Path, help="folder of CLIP's vocabulary (default: the server's)")
    return parser


def command(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None], arguments: Sequence[str] | None
) -> int:
    """The exit status of `run`; errors that a user can mend are told without a traceback."""
    options = parser.parse_args(arguments)
    from training.glyphs import MissingPackage
    from training.loop import Interrupted

    try:
        run(options)
    except Interrupted as stopped:
        say(str(stopped))
        return 130
    except (MissingPackage, FileExistsError, FileNotFoundError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


def settings_of_run(options: argparse.Namespace, defaults: SettingsT) -> SettingsT:
    """`defaults` changed by the flags, or those of the run that is resumed.

    Raises FileNotFoundError for nothing to resume, FileExistsError when a new run would overwrite another.
    """
    path = _settings_file(options)
    if options.resume:
        if not path.is_file():
            raise FileNotFoundError(f"nothing to resume: {path} does not exist")
        return type(defaults)(**json.loads(path.read_text(encoding="utf-8")))
    if path.is_file():
        raise FileExistsError(f"{options.output} holds a run already: add --resume, or choose another --output")
    names = asdict(defaults)  # type: ignore[call-overload]
    changes = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    return replace(defaults, **changes)  # type: ignore[type-var]


def begin_run(options: argparse.Namespace, settings: Any) -> None:
    """Write the settings; from here on the folder holds a run. To be called when nothing is missing any more (font,
    base model): until then the same command may be given again."""
    from training.settings import save_settings

    save_settings(settings, _settings_file(options))


def _settings_file(options: argparse.Namespace) -> Path:
    return options.output / "settings.json"


def frozen_networks(path: Path, device: torch.device) -> tuple[Networks, Architecture]:
    """The networks of a file of this project, on `device`, without gradients."""
    from training.export import read_checkpoint
    from training.models import prepare

    networks, architecture = read_checkpoint(path)
    for network in (networks.vae, networks.text_encoder, networks.unet):
        prepare(network, device).requires_grad_(False).eval()
    return networks, architecture


def denoising_loss(
    predict: Callable[[Tensor, Tensor], Tensor], latents: Tensor, signal: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(weighted, plain) squared errors of the eps that `predict` makes of noisy latents [B, 4, h, w] and timesteps.

    `signal` [1000]: the signal's power after each timestep. The weight 1 / (signal-to-noise ratio + 0.1) makes it
    the error of the clean latent wherever there is signal: layout and colour are decided at high noise, where an
    error of eps is hardly visible.
    """
    import torch

    from training.models import autocast

    device = latents.device
    noise = torch.randn(latents.shape, generator=generator, device=device)
    times = torch.randint(0, len(signal), (len(latents),), generator=generator, device=device)
    power = signal[times].view(-1, 1, 1, 1)
    noisy = (power.sqrt() * latents + (1 - power).sqrt() * noise).contiguous(memory_format=torch.channels_last)
    with autocast(device):
        predicted = predict(noisy, times)
    error = (predicted.float() - noise).square().mean((1, 2, 3))
    ratio = (power / (1 - power)).flatten()
    return (error / (ratio + _FLOOR)).mean(), error.mean()


def write_half(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write `state` as fp16 safetensors. Raises ValueError when a weight is too large for half precision."""
    import torch
    from safetensors.torch import save_file

    halves = {k: w.detach().cpu().half().clone(memory_format=torch.contiguous_format) for k, w in state.items()}
    for key, half in halves.items():
        if not bool(torch.isfinite(half).all()):
            raise ValueError(f"{key} does not fit into half precision")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(halves, partial, metadata=dict(metadata))
    partial.chmod(0o644)  # safetensors creates files that only their owner may read
    os.replace(partial, path)


def device_of(options: Any) -> torch.device:
    import torch

    return torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
