"""The ControlNet's training: its hint encoder alone, then all of it, beside the frozen UNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.adaptation import LICENCE, denoising_loss, say, write_half
from training.control_data import Batch, ControlSettings
from training.control_evaluation import cases, mean_agreement, predict
from training.control_layout import build_control, control_to_ldm
from training.glyphs import Glyph
from training.loop import Ema, Position, learning_rate_factor, load_state, save_state, seeded_generator, step_random
from training.models import LATENT_SCALE, Architecture, Networks, alphas_cumprod, autocast, context, prepare
from training.optimizers import MuonWithAdamW

Phase = Literal["hint", "control"]

# The hint encoder's layers at full and half resolution: they cost the most and stay as the phase "hint" left them.
_FINE_BLOCKS = 4
_KEEPER_CASES, _KEEPER_STEPS = 12, 10


class ControlTrainer:
    """ControlNet and, in the phase "hint", a linear head learn; UNet and text encoder are frozen."""

    def __init__(self, settings: ControlSettings, networks: Networks, device: torch.device) -> None:
        torch.manual_seed(settings.seed + 2)
        self.settings, self.networks, self.device = settings, networks, device
        self.control: Any = prepare(build_control(networks.unet), device).train()
        # Its zero initialisation is not needed (the zero convolutions suffice) and would stop the phase "hint".
        nn.init.normal_(self.hint_encoder.conv_out.weight, std=0.02)
        channels = networks.unet.config.block_out_channels[0]
        self.head = nn.Conv2d(channels, LATENT_SCALE**2, 1).to(device)
        self._signal = alphas_cumprod().float().to(device)
        self.phase: Phase = "hint"
        self.position, self.best = Position(), -1.0  # below every agreement: the first is kept, be it 0
        self._start_phase()

    @property
    def hint_encoder(self) -> Any:
        return self.control.controlnet_cond_embedding

    def start(self, phase: Phase) -> None:
        """Begin `phase` unless a loaded checkpoint is in it already."""
        if phase != self.phase:
            self.phase, self.position = phase, Position()
            self._start_phase()

    def _start_phase(self) -> None:
        trained: list[tuple[str, nn.Module]] = [("control", self.control)]
        if self.phase == "hint":
            trained = [("control", self.hint_encoder), ("auxiliary", self.head)]
        for layer in (self.hint_encoder.conv_in, *self.hint_encoder.blocks[:_FINE_BLOCKS]):
            layer.requires_grad_(self.phase == "hint")
        self.optimizer = MuonWithAdamW(trained, (self.settings.muon_rate, self.settings.adam_rate))
        self.ema = Ema(list(self.control.parameters()), decay=0.998)

    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        """One optimiser step of the present phase."""
        if self.phase == "hint":
            loss = self._edge_loss(batch.hints)
            metrics = {"edges": loss.item()}
        else:
            loss, plain = self._diffusion_loss(batch)
            metrics = {"loss": loss.item(), "mse": plain.item()}
        self.optimizer.step(loss, learning_rate_factor(self.position.steps, progress))
        self.ema.update()
        return metrics

    def _edge_loss(self, hints: Tensor) -> Tensor:
        """How badly a linear map reads each latent cell's 8x8 edge pixels from the hint encoder's output."""
        with autocast(self.device):
            read = self.head(self.hint_encoder(hints))
        wanted = functional.pixel_unshuffle(hints[:, :1], LATENT_SCALE)
        return functional.binary_cross_entropy_with_logits(read.float(), wanted)

    def _diffusion_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), autocast(self.device):
            words = context(self.networks.text_encoder, batch.token_ids)
        generator = seeded_generator(step_random(self.settings.seed, self.phase, self.position.steps), self.device)
        return denoising_loss(
            lambda x, t: predict(self.networks.unet, self.control, x, t, words, batch.hints),
            batch.latents, self._signal, generator,
        )  # fmt: skip

    def save(self, path: Path) -> None:
        parts = {"control": self.control, "head": self.head, "ema": self.ema, "optimizer": self.optimizer}
        state = {name: part.state_dict() for name, part in parts.items()}
        save_state(path, state | {"phase": self.phase, "position": vars(self.position), "best": self.best})

    def load(self, path: Path) -> None:
        state = load_state(path, self.device)
        self.phase = state["phase"]
        self._start_phase()
        self.control.load_state_dict(state["control"])
        self.head.load_state_dict(state["head"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.position, self.best = Position(**state["position"]), state["best"]


@dataclass(frozen=True)
class Keeper:
    """Saves the run, and the averaged weights as a finished file whenever they follow hints better than before."""

    trainer: ControlTrainer
    architecture: Architecture
    tokenizer: Any
    glyphs: Sequence[Glyph]
    state: Path
    file: Path

    def save(self, _: Position) -> None:
        if self.trainer.phase == "control":
            self._keep_best()
        self.trainer.save(self.state)

    def _keep_best(self) -> None:
        trainer = self.trainer
        trainer.ema.swap()
        some = cases(self.glyphs, _KEEPER_CASES, trainer.settings.size)
        score = mean_agreement(trainer.networks, trainer.control, self.tokenizer, some, steps=_KEEPER_STEPS)
        kept = score > trainer.best
        if kept:
            trainer.best = score
            state = control_to_ldm(trainer.control, self.architecture)
            write_half(self.file, state, metadata(self.file.stem, trainer.settings.size, score))
        trainer.ema.swap()
        say(f"edge agreement {score:.3f} after {trainer.position.steps} steps{', kept' if kept else ''}")


def metadata(title: str, size: int, score: float) -> dict[str, str]:
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/controlnet",
        "modelspec.title": title,
        "modelspec.description": "Canny ControlNet for emoji-mini, trained on pictures drawn with the Noto Color Emoji "
        f"font; edge agreement (F1, 2 pixels) {score:.2f} at the end of training",
        "modelspec.date": date.today().isoformat(),
        "modelspec.license": LICENCE,
        "modelspec.resolution": f"{size}x{size}",
    }
