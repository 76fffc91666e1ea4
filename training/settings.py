"""What a training run is made of; written into its folder, so that `--resume` needs no other flag."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.models import EMBEDDED, Architecture
from training.scenes import BASIC_MIX, WIDE_MIX, SceneMix


@dataclass(frozen=True)
class Settings:
    """The defaults are the shipped file's: two CPU cores, 128x128 only.

    Batches are counted at the smallest size; larger pictures come in smaller batches of about the same cost.
    `scenes`: latents kept per size, of which `refreshed` are replaced each step. `auxiliary`: weight of the loss that
    makes the text encoder alone predict the picture. `clip_skip_share`: batches conditioned on the last layer but one.
    """

    architecture: Architecture = EMBEDDED
    sizes: tuple[int, ...] = (128,)
    mix: SceneMix = BASIC_MIX
    vae_batch: int = 12
    vae_crop: int = 64
    vae_rate: float = 2e-3
    batch: int = 64
    scenes: int = 2000
    refreshed: int = 1
    muon_rate: float = 2e-3
    adam_rate: float = 1e-3
    auxiliary: float = 0.1
    clip_skip_share: float = 0.0
    glyph_limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sizes or any(size % 64 or size <= 0 for size in self.sizes):
            raise ValueError(f"sizes must be multiples of 64 pixels, not {self.sizes}")

    @property
    def native_size(self) -> int:
        """The size that goes into the file's metadata: the smallest, where the objects were learned first."""
        return self.sizes[0]

    def batch_at(self, batch: int, size: int) -> int:
        return max(1, round(batch * (self.sizes[0] / size) ** 2))


CPU = Settings()
GPU = Settings(
    architecture=Architecture(unet_blocks=2, vae_blocks=2),  # 58 MB in fp16
    sizes=(128, 192, 256, 384, 512),
    mix=WIDE_MIX,
    vae_batch=64,
    vae_crop=128,
    batch=512,
    scenes=8000,
    refreshed=16,
    clip_skip_share=0.1,
)


def save_settings(settings: Any, path: Path) -> None:
    """`settings`: those above, or the dataclass of another kind of run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")


def load_settings(path: Path) -> Settings:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    shape: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in values.pop("architecture").items()
    }
    mix, sizes = SceneMix(**values.pop("mix")), tuple(values.pop("sizes"))
    return Settings(architecture=Architecture(**shape), mix=mix, sizes=sizes, **values)
