"""The style LoRA's training: the pictures' style, the batches, the low-rank additions beside the frozen UNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.adaptation import BASE, LICENCE, denoising_loss
from training.captions import training_caption
from training.glyphs import Glyph
from training.loop import Ema, Position, learning_rate_factor, load_state, save_state, seeded_generator, step_random
from training.lora_layers import UNetLora
from training.models import SCALE_FACTOR, Networks, alphas_cumprod, autocast, context
from training.optimizers import MuonWithAdamW
from training.pictures import to_tensor
from training.scenes import Composer, SceneMix, draw_scene
from training.vocabulary import token_ids

_MIX = SceneMix(single=0.7, varied=0.2, pair=0.1, popular_weight=8.0)
_NAVY, _PALE = np.array([18.0, 38.0, 98.0]), np.array([120.0, 180.0, 240.0])


@dataclass(frozen=True)
class StyleSettings:
    """Kept in the run's folder. `scenes`: pictures drawn and encoded, once."""

    base: str = str(BASE)
    size: int = 128
    rank: int = 8
    batch: int = 24
    scenes: int = 480
    muon_rate: float = 2e-3
    adam_rate: float = 1e-3
    glyph_limit: int | None = None
    seed: int = 0


def blueprint(picture: Image.Image) -> Image.Image:
    """The RGB picture as a blueprint: white paper turns navy, dark turns pale blue, edges become white lines."""
    pixels = np.asarray(picture.convert("RGB"))
    darkness = 1 - cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None] / 255
    toned = _NAVY + (_PALE - _NAVY) * darkness**0.8
    lines = cv2.dilate(cv2.Canny(pixels, 80, 160), np.ones((2, 2), np.uint8)).astype(np.float32)[..., None] / 255
    return Image.fromarray((toned + (255 - toned) * lines).round().astype(np.uint8))


class StyleBatches:
    """Styled pictures, drawn and encoded once, with new captions each time they are used."""

    def __init__(self, glyphs: Sequence[Glyph], networks: Networks, tokenizer: Any, settings: StyleSettings) -> None:
        self._settings, self._tokenizer = settings, tokenizer
        composer = Composer(glyphs, _MIX)
        random, device, size = Random(f"{settings.seed}/style"), networks.unet.device, settings.size
        self._scenes = [composer.scene(random) for _ in range(settings.scenes)]
        parts = []
        for start in range(0, len(self._scenes), 16):
            styled = [blueprint(draw_scene(scene, size, size)) for scene in self._scenes[start : start + 16]]
            with torch.no_grad(), autocast(device):
                encoded = networks.vae.encode(to_tensor(styled).to(device)).latent_dist.mean
            parts.append(encoded.float() * SCALE_FACTOR)
        self._latents = torch.cat(parts)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Latents [B, 4, h, w] and CLIP token ids [B, 77]."""
        random = step_random(self._settings.seed, "style batch", step)
        chosen = random.sample(range(len(self._scenes)), min(self._settings.batch, len(self._scenes)))
        captions = [training_caption(self._scenes[i], random) for i in chosen]
        return self._latents[chosen], token_ids(captions, self._tokenizer).to(self._latents.device)


class StyleTrainer:
    """The LoRA learns; everything else is frozen."""

    def __init__(self, settings: StyleSettings, networks: Networks, device: torch.device) -> None:
        torch.manual_seed(settings.seed + 3)
        self.settings, self.networks, self.device = settings, networks, device
        self.lora: Any = UNetLora(networks.unet, settings.rank).to(device)
        self.optimizer = MuonWithAdamW([("lora", self.lora)], (settings.muon_rate, settings.adam_rate))
        self.ema = Ema(list(self.lora.parameters()), decay=0.99)
        self.position = Position()
        self._signal = alphas_cumprod().float().to(device)

    def step(self, latents: Tensor, ids: Tensor, progress: float) -> dict[str, float]:
        with torch.no_grad(), autocast(self.device):
            words = context(self.networks.text_encoder, ids)
        generator = seeded_generator(step_random(self.settings.seed, "style", self.position.steps), self.device)
        loss, plain = denoising_loss(
            lambda x, t: self.networks.unet(x, t, words).sample, latents, self._signal, generator
        )
        self.optimizer.step(loss, learning_rate_factor(self.position.steps, progress, warmup=30))
        self.ema.update()
        return {"loss": loss.item(), "mse": plain.item()}

    def save(self, path: Path) -> None:
        parts = {"lora": self.lora, "ema": self.ema, "optimizer": self.optimizer}
        state = {name: part.state_dict() for name, part in parts.items()}
        save_state(path, state | {"position": vars(self.position)})

    def load(self, path: Path) -> None:
        state = load_state(path, self.device)
        self.lora.load_state_dict(state["lora"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.position = Position(**state["position"])


def metadata(title: str, settings: StyleSettings, steps: int) -> dict[str, str]:
    return {
        "format": "pt",
        "ss_output_name": title,
        "ss_sd_model_name": Path(settings.base).name,
        "ss_base_model_version": "sd_v1",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(settings.rank),
        "ss_network_alpha": str(settings.rank),
        "ss_resolution": f"({settings.size}, {settings.size})",
        "ss_steps": str(steps),
        "ss_num_train_images": str(settings.scenes),
        "ss_training_comment": "blueprint style; works without a trigger word",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": title,
        "modelspec.date": date.today().isoformat(),
        "modelspec.license": LICENCE,
    }
