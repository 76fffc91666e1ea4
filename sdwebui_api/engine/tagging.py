"""Booru tags for a picture: WD14-style taggers, ONNX files that run in onnxruntime (an optional package)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.pictures import flattened
from sdwebui_api.errors import UnusableModel

NETWORK, TAGS = "model.onnx", "selected_tags.csv"
RATING = "9"
"""The category of `rating` tags in the taggers' tables (SmilingWolf, wd-v1-4-tags)."""


@dataclass(frozen=True)
class Tagger:
    """session: an `onnxruntime.InferenceSession` from [1, S, S, 3] (BGR, 0 to 255) to [1, tags] in [0, 1]."""

    session: Any
    tags: tuple[tuple[str, str], ...]
    """(name with underscores, category) of each output."""

    def scores(self, image: Image.Image) -> dict[str, float]:
        """Tag to probability, ratings left out, in the table's order."""
        source = self.session.get_inputs()[0]
        side = source.shape[1] if isinstance(source.shape[1], int) else 448
        found = self.session.run(None, {source.name: _square(image, side)})[0][0]
        if len(found) != len(self.tags):
            raise UnusableModel(f"{TAGS} has {len(self.tags)} tags, and {NETWORK} answers {len(found)}")
        return {name: float(score) for (name, kind), score in zip(self.tags, found, strict=True) if kind != RATING}


def load_tagger(folder: Path, plan: DevicePlan, device: Device) -> Tagger:
    """Raises UnusableModel when a file is broken or onnxruntime is not installed. Runs on the CPU: a second or so."""
    if find_spec("onnxruntime") is None:
        raise UnusableModel("booru tags need the package onnxruntime: pip install onnxruntime")
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(folder / NETWORK), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UnusableModel(f"{folder / NETWORK} cannot be loaded: {error}"[:500]) from error
    return Tagger(session, _tags(folder / TAGS))


def _tags(path: Path) -> tuple[tuple[str, str], ...]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return tuple((row["name"], row["category"]) for row in csv.DictReader(file))
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UnusableModel(f"{path} cannot be read: {error}") from error


def _square(image: Image.Image, side: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[1, side, side, 3]: on a white square, in OpenCV's order of channels."""
    picture = flattened(image)
    longest = max(picture.size)
    canvas = Image.new("RGB", (longest, longest), "white")
    canvas.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
    pixels = np.asarray(canvas.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    return np.ascontiguousarray(pixels[None, :, :, ::-1])
