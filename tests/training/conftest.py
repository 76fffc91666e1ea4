"""Synthetic glyphs, so that these tests need no font, and networks small enough for seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from training.glyphs import Emoji, Glyph
from training.models import Architecture
from training.settings import Settings
from training.vocabulary import load_tokenizer

CLIP_FOLDER = Path(__file__).parent.parent / "golden" / "models" / "Stable-diffusion" / "clip"


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Tiny networks run faster on one thread, and other test processes keep their core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def glyphs() -> list[Glyph]:
    names = {"red apple": "red", "automobile": "blue", "honeybee": "gold", "green book": "green"}
    return [
        Glyph(Emoji(chr(0x1F600 + i), name, ("car",) if name == "automobile" else (), ("thing",), i < 2), _disc(colour))
        for i, (name, colour) in enumerate(names.items())
    ]


def _disc(colour: str) -> Image.Image:
    picture = Image.new("RGBA", (100, 80), (0, 0, 0, 0))
    ImageDraw.Draw(picture).ellipse((0, 0, 99, 79), fill=colour, outline="black", width=6)
    return picture


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return load_tokenizer(CLIP_FOLDER)


@pytest.fixture(scope="session")
def architecture() -> Architecture:
    return Architecture(
        unet_channels=32, unet_multipliers=(1, 2), vae_channels=32, vae_multipliers=(1, 1, 1, 1), text_width=32,
        text_layers=2,
    )  # fmt: skip


@pytest.fixture(scope="session")
def settings(architecture: Architecture) -> Settings:
    return Settings(architecture=architecture, sizes=(64,), vae_batch=2, vae_crop=64, batch=4, scenes=8)
