"""Phases 2 and 3: the text encoder alone, then text encoder and UNet together.

The UNet learns eps with min-SNR weighting (gamma 5; Hang et al., arXiv:2303.09556). A linear head that regresses the
latent from the text alone gives the text encoder a strong signal from the first step on; without it words begin to
matter only after tens of thousands of pictures. The head is not exported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.latents import LatentBatches
from training.loop import (
    Budget,
    Ema,
    Loop,
    Position,
    learning_rate_factor,
    load_state,
    save_state,
    seeded_generator,
    step_random,
)
from training.models import (
    TIMESTEPS,
    alphas_cumprod,
    autocast,
    build_text_encoder,
    build_unet,
    context,
    prepare,
)
from training.optimizers import MuonWithAdamW
from training.settings import Settings
from training.vocabulary import Vocabulary

Phase = Literal["text", "diffusion"]
_GAMMA = 5.0
_HEAD_GRID = 16  # the head predicts the latent shrunk to 16x16 cells


class DiffusionTrainer:
    """Text encoder (with a compact vocabulary), UNet and the auxiliary head."""

    def __init__(self, settings: Settings, vocabulary: Vocabulary, device: torch.device) -> None:
        torch.manual_seed(settings.seed + 1)
        self.settings, self.vocabulary, self.device = settings, vocabulary, device
        width = settings.architecture.text_width
        self.text_encoder: Any = prepare(build_text_encoder(settings.architecture, vocabulary.rows), device).train()
        self.unet: Any = prepare(build_unet(settings.architecture), device).train()
        self.head = nn.Linear(width, 4 * _HEAD_GRID**2).to(device)
        nn.init.zeros_(self.head.weight)
        self._signal = alphas_cumprod().float().to(device)
        self.phase: Phase = "text"
        self.position = Position()
        self._start_phase()

    def step(self, latents: Tensor, ids: Tensor, progress: float) -> dict[str, float]:
        """One optimiser step on latents [B, 4, h, w] (unit variance) and compact token ids [B, 77]."""
        random = step_random(self.settings.seed, self.phase, self.position.steps)
        skip = 2 if self.phase == "diffusion" and random.random() < self.settings.clip_skip_share else 1
        with autocast(self.device):
            conditioning = context(self.text_encoder, ids, skip)
        auxiliary = self._auxiliary_loss(conditioning.float(), ids, latents)
        metrics = {"text": auxiliary.item()}
        loss = auxiliary
        if self.phase == "diffusion":
            weighted, plain = self._diffusion_loss(latents, conditioning, seeded_generator(random, self.device))
            loss = weighted + self.settings.auxiliary * auxiliary
            metrics = {"loss": weighted.item(), "mse": plain.item(), **metrics}
        self.optimizer.step(loss, learning_rate_factor(self.position.steps, progress))
        self.ema.update()
        return metrics

    def _diffusion_loss(
        self, latents: Tensor, conditioning: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        times = torch.randint(0, TIMESTEPS, (len(latents),), generator=generator, device=self.device)
        signal = self._signal[times].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        with autocast(self.device):
            predicted = self.unet(noisy.contiguous(memory_format=torch.channels_last), times, conditioning).sample
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        ratio = (signal / (1 - signal)).flatten()
        return (error * ratio.clamp(max=_GAMMA) / ratio).mean(), error.mean()

    def _auxiliary_loss(self, conditioning: Tensor, ids: Tensor, latents: Tensor) -> Tensor:
        ends = (ids == self.vocabulary.end).float().unsqueeze(-1)
        pooled = (conditioning * ends).sum(1) / ends.sum(1)
        target = functional.interpolate(latents, (_HEAD_GRID, _HEAD_GRID), mode="area").flatten(1)
        return (self.head(pooled) - target).square().mean()

    def run(self, phase: Phase, budget: Budget, batches: LatentBatches, path: Path, save_minutes: float = 5.0) -> None:
        """Train `phase` to the end of `budget`, saving into `path`. Raises Interrupted when asked to stop."""
        if phase != self.phase:
            self.phase, self.position = phase, Position()
            self._start_phase()

        def step(number: int, progress: float) -> dict[str, float]:
            # Text-only steps are so much cheaper that their batches can be larger.
            size = self.settings.batch * 3 if phase == "text" else None
            metrics = self.step(*batches.batch(number, size), progress)
            batches.refresh(number)
            return metrics

        Loop(phase, budget, lambda _: self.save(path), save_minutes).run(step, self.position)

    def averaged(self) -> tuple[Any, Any]:
        """(text encoder, UNet) with their averaged weights, in evaluation mode. Call once, after training."""
        self.ema.swap()
        return self.text_encoder.eval(), self.unet.eval()

    def start_from(self, text_encoder: Any, unet: Any) -> None:
        """Begin the last phase from trained networks; `text_encoder` has CLIP's full token table."""
        self.phase = "diffusion"
        state = text_encoder.state_dict()
        table = next(name for name in state if name.endswith("token_embedding.weight"))
        state[table] = self.vocabulary.gather(state[table])
        self.text_encoder.load_state_dict(state)
        self.unet.load_state_dict(unet.state_dict())
        self._start_phase()

    def _start_phase(self) -> None:
        """Optimiser and averages of the networks that this phase trains, fresh."""
        trained = [("text", self.text_encoder), ("auxiliary", self.head)]
        if self.phase == "diffusion":
            trained.append(("unet", self.unet))
        self.optimizer = MuonWithAdamW(trained, (self.settings.muon_rate, self.settings.adam_rate))
        self.ema = Ema([p for _, network in trained for p in network.parameters()])

    def save(self, path: Path) -> None:
        state = {
            "phase": self.phase,
            "text_encoder": self.text_encoder.state_dict(),
            "unet": self.unet.state_dict(),
            "head": self.head.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "position": vars(self.position),
            "vocabulary": self.vocabulary.tokens,
        }
        save_state(path, state)

    def load(self, path: Path) -> None:
        state = load_state(path, self.device)
        if state["vocabulary"] != self.vocabulary.tokens:
            raise ValueError(f"{path} was trained with another vocabulary: did the Unicode packages change?")
        self.phase = state["phase"]
        self._start_phase()
        self.text_encoder.load_state_dict(state["text_encoder"])
        self.unet.load_state_dict(state["unet"])
        self.head.load_state_dict(state["head"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.position = Position(**state["position"])
