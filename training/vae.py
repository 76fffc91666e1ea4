"""Phase 1: the VAE, and folding the normalisation of its latents into its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.glyphs import Glyph
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
from training.models import SCALE_FACTOR, autocast, build_vae, prepare
from training.optimizers import MuonWithAdamW
from training.pictures import Ahead, draw_crops
from training.scenes import Composer
from training.settings import Settings

PHASE = "vae"
_CROPS_UNTIL = 0.6  # share of the budget spent on crops, which are cheaper; whole pictures after that


class VaeTrainer:
    """L1 + 2 MSE + 0.5 gradient L1 + 2e-4 KL, as phase 1 of the shipped model."""

    def __init__(self, settings: Settings, glyphs: Sequence[Glyph], device: torch.device) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.device = settings, device
        self.vae: Any = prepare(build_vae(settings.architecture), device).train()
        self.optimizer = MuonWithAdamW([("vae", self.vae)], (settings.vae_rate, settings.vae_rate), weight_decay=0.0)
        self.ema = Ema(list(self.vae.parameters()), decay=0.98)
        self.position = Position()
        self._composer = Composer(glyphs, settings.mix)

    def batch(self, step: int, whole: bool) -> Tensor:
        """Pictures of this step, [B, 3, H, W] in [-1, 1] on the CPU."""
        settings, random = self.settings, step_random(self.settings.seed, PHASE, step)
        size = random.choice(settings.sizes)
        crop = size if whole else min(settings.vae_crop, size)
        count = max(1, round(settings.vae_batch * (settings.vae_crop / crop) ** 2))
        return draw_crops(self._composer, random, count, size, crop)

    def step(self, pictures: Tensor, progress: float) -> dict[str, float]:
        """One optimiser step on `pictures`; returns the losses."""
        pictures = pictures.to(self.device, memory_format=torch.channels_last)
        generator = seeded_generator(step_random(self.settings.seed, "vae noise", self.position.steps), self.device)
        with autocast(self.device):
            posterior = self.vae.encode(pictures).latent_dist
            mean, log_variance = posterior.mean.float(), posterior.logvar.float()
            noise = torch.randn(mean.shape, generator=generator, device=self.device)
            restored = self.vae.decode(mean + torch.exp(0.5 * log_variance) * noise).sample.float()
        difference = restored - pictures
        l1, mse = difference.abs().mean(), difference.square().mean()
        kl = 0.5 * (mean * mean + log_variance.exp() - 1 - log_variance).mean()
        loss = l1 + 2 * mse + 0.5 * _gradient_l1(difference) + 2e-4 * kl
        self.optimizer.step(loss, learning_rate_factor(self.position.steps, progress, warmup=30, decay=0.65))
        self.ema.update()
        return {"loss": loss.item(), "l1": l1.item(), "mse": mse.item(), "kl": kl.item()}

    def run(self, budget: Budget, path: Path, save_minutes: float = 5.0) -> None:
        """Train to the end of `budget`, saving into `path`. Raises Interrupted when asked to stop."""
        crops = Ahead(lambda step: self.batch(step, whole=False))
        whole = Ahead(lambda step: self.batch(step, whole=True))

        def step(number: int, progress: float) -> dict[str, float]:
            return self.step((crops if progress < _CROPS_UNTIL else whole)(number), progress)

        try:
            Loop(PHASE, budget, lambda _: self.save(path), save_minutes).run(step, self.position)
        finally:
            crops.close()
            whole.close()

    def finished(self) -> Any:
        """The averaged VAE with normalised latents. Call once, after training."""
        self.ema.swap()
        self.vae.eval()
        random = step_random(self.settings.seed, "vae statistics", 0)
        size = self.settings.native_size
        batches = [draw_crops(self._composer, random, 16, size, size).to(self.device) for _ in range(16)]
        normalise_latents(self.vae, batches)
        return self.vae

    def save(self, path: Path) -> None:
        state = {
            "vae": self.vae.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "position": vars(self.position),
        }
        save_state(path, state)

    def load(self, path: Path) -> None:
        state = load_state(path, self.device)
        self.vae.load_state_dict(state["vae"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.position = Position(**state["position"])


@torch.no_grad()
def normalise_latents(vae: Any, batches: Sequence[Tensor]) -> None:
    """Change `vae` so that SCALE_FACTOR * latent of these pictures has mean 0 and standard deviation 1 per channel.

    The scale s and shift b go into quant_conv (also into its log variances) and their inverse into post_quant_conv:
    what encode and decode do together stays the same.
    """
    means = torch.cat([vae.encode(batch).latent_dist.mean.float() for batch in batches])
    scale = 1 / (means.std((0, 2, 3)) * SCALE_FACTOR)
    shift = -means.mean((0, 2, 3)) * scale
    channels = len(scale)
    into, out_of = vae.quant_conv, vae.post_quant_conv
    into.weight[:channels] *= scale.view(-1, 1, 1, 1)
    into.bias[:channels] = into.bias[:channels] * scale + shift
    into.bias[channels:] += 2 * scale.log()
    out_of.weight /= scale.view(1, -1, 1, 1)
    out_of.bias -= (out_of.weight * shift.view(1, -1, 1, 1)).sum((1, 2, 3))


@torch.no_grad()
def reconstruction_psnr(vae: Any, pictures: Tensor) -> float:
    """Mean PSNR in dB of decode(encode(x)) over `pictures` [B, 3, H, W] in [-1, 1]."""
    restored = torch.cat([vae.decode(vae.encode(x).latent_dist.mean).sample for x in pictures.split(8)])
    error = ((restored.clamp(-1, 1) - pictures) / 2).square().mean((1, 2, 3))
    return float((-10 * error.log10()).mean())


def _gradient_l1(difference: Tensor) -> Tensor:
    """L1 between the pictures' horizontal and vertical derivatives: keeps edges sharp."""
    across = difference[..., :, 1:] - difference[..., :, :-1]
    down = difference[..., 1:, :] - difference[..., :-1, :]
    return across.abs().mean() + down.abs().mean()
