"""How near two pictures are, and two infotexts."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

IDENTICAL = 100.0
"""The PSNR in dB that stands for equal pictures."""


def picture(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def psnr(ours: Image.Image, theirs: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB over all channels; `IDENTICAL` when no pixel differs."""
    if ours.size != theirs.size or ours.mode != theirs.mode:
        raise AssertionError(f"{ours.size} {ours.mode} instead of {theirs.size} {theirs.mode}")
    difference = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    error = float(np.mean(difference**2))
    return IDENTICAL if error == 0 else min(IDENTICAL, 10 * np.log10(255.0**2 / error))


def without_version(infotext: str) -> str:
    """The infotext without the one entry that may differ."""
    return re.sub(r"(, )?Version: [^,\n]+", "", infotext)
