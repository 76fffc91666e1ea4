"""Reading textual inversion embeddings in every form they are shared in.

- `.pt`: a dictionary with `string_to_param` (A1111's training)
- `.bin`, `.safetensors`: one tensor under any name (diffusers: `<token>`, A1111: `emb_params`), or the two of SDXL,
  `clip_l` and `clip_g`
- `.png`, `.webp`, …: the same dictionary as JSON, in the text chunk `sd-ti-embedding` (base64), or in the low bits of
  the pixels at the left and right border
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdwebui_api.catalog.files import whole_characters
from sdwebui_api.engine.reading import read_pickle, read_tensors
from sdwebui_api.errors import UnusableModel

PICTURES = (".png", ".webp", ".jxl", ".avif")
TEXT_CHUNK = "sd-ti-embedding"
LARGEST_JSON = 64 * 2**20
"""Bytes that the JSON inside a picture may unpack to; 75 vectors of 2048 numbers take 3 MB."""


@dataclass(frozen=True)
class Embedding:
    """A learned word: `vectors` rows that stand for as many tokens."""

    name: str
    tensor: Tensor
    """[vectors, shape] float32 on the CPU. For SDXL the two encoders' vectors side by side (CLIP-L first)."""
    shorthash: str
    """First 12 digits of the file's SHA-256; empty with `--no-hashing`."""
    step: int | None = None
    """Training steps."""
    checkpoint: str | None = None
    """Short hash of the checkpoint it was trained on."""
    checkpoint_name: str | None = None

    @property
    def vectors(self) -> int:
        return self.tensor.shape[0]

    @property
    def shape(self) -> int:
        """Width of the text encoder it belongs to."""
        return self.tensor.shape[1]


def read_embedding(path: Path, name: str, *, hashing: bool = True) -> Embedding | None:
    """The embedding in a file; None for a picture that holds none.

    `name`: what it is called unless a picture says otherwise. Raises UnusableModel when the file is broken.
    """
    data = _read(path)
    if data is None:
        return None
    if path.suffix.lower() in PICTURES:
        name = _text(data.get("name")) or name
    return Embedding(
        name=name,
        tensor=vectors_of(data, path),
        shorthash=_short_hash(path) if hashing else "",
        step=_whole(data.get("step")),
        checkpoint=_text(data.get("sd_checkpoint")),
        checkpoint_name=_text(data.get("sd_checkpoint_name")),
    )


def _read(path: Path) -> Mapping[str, Any] | None:
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return _read_picture(path)
    data = read_tensors(path) if suffix == ".safetensors" else read_pickle(path)
    if not isinstance(data, Mapping):
        raise UnusableModel(f"{path.name} is not a textual inversion embedding")
    return data


def vectors_of(data: Mapping[str, Any], path: Path) -> Tensor:
    """[vectors, width] float32, copied. Raises UnusableModel naming `path` when `data` is no embedding."""
    try:
        if "string_to_param" in data:
            tensors = list(dict(data["string_to_param"]).values())
        elif "clip_g" in data and "clip_l" in data:
            tensors = [torch.cat([data["clip_l"], data["clip_g"]], dim=-1)]
        else:
            tensors = list(data.values())
    except (TypeError, ValueError, RuntimeError) as error:  # things of any kind, tables of any shape
        raise _no_embedding(path) from error
    if len(tensors) != 1 or not isinstance(tensors[0], Tensor) or tensors[0].ndim not in (1, 2):
        raise _no_embedding(path)
    if not tensors[0].numel() or not tensors[0].is_floating_point() or tensors[0].is_meta:
        raise _no_embedding(path)
    table = tensors[0].detach().to_dense().float().clone()
    return table[None] if table.ndim == 1 else table


def _no_embedding(path: Path) -> UnusableModel:
    return UnusableModel(f"{path.name} is not a textual inversion embedding: it has to hold one table of vectors")


def _short_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float | np.number) and np.isfinite(value) else None


def _text(value: Any) -> str | None:
    return None if value is None else whole_characters(str(value))


# --- pictures -------------------------------------------------------------------------------------------------


def _read_picture(path: Path) -> Mapping[str, Any] | None:
    try:
        with Image.open(path) as image:
            text = image.info.get(TEXT_CHUNK)
            packed = base64.b64decode(text) if text else _unpack(hidden_bytes(image))
            data = json.loads(packed, object_hook=_tensor_or_dict) if packed else None
    # Besides broken pictures: brackets in brackets without end, a TORCHTENSOR of anything but numbers.
    except (
        OSError,
        ValueError,
        RuntimeError,
        TypeError,
        SyntaxError,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise UnusableModel(f"{path.name}: no embedding can be read from this picture: {error}") from error
    return data if isinstance(data, Mapping) else None


def _tensor_or_dict(value: dict[str, Any]) -> Any:
    """In the JSON a tensor is `{"TORCHTENSOR": [[…]]}`."""
    return torch.tensor(value["TORCHTENSOR"]) if "TORCHTENSOR" in value else value


def _unpack(packed: bytes | None) -> bytes | None:
    if packed is None:
        return None
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(packed, LARGEST_JSON)
    if unpacker.unconsumed_tail:
        raise ValueError("the data is larger than any embedding")
    return data


def hidden_bytes(image: Image.Image) -> bytes | None:
    """What is stored in the low four bits of the borders; None when the picture has no such borders.

    The left block has the low halves of the bytes, the right block the high halves, both masked with a fixed random
    sequence; the picture between them is set off by columns whose low bits are zero.
    """
    pixels = _without_black_frame(np.asarray(image.convert("RGB"))) & 0x0F
    empty = np.flatnonzero(pixels.sum(axis=(0, 2)) == 0)
    if len(empty) < 2:
        return None
    low, high = pixels[:, : empty[0]], pixels[:, empty[-1] + 1 :]
    if low.shape != high.shape or low.size == 0:
        return None
    mask = low_bits_mask(low.size).reshape(low.shape)
    return (((high ^ mask) << 4) | (low ^ mask)).tobytes()


def _without_black_frame(pixels: np.ndarray) -> np.ndarray:
    """Cut to the rows and columns that have a pixel with no channel at zero."""
    bright = np.asarray((pixels > 0).all(axis=2))
    columns, rows = np.flatnonzero(bright.any(axis=0)), np.flatnonzero(bright.any(axis=1))
    if not len(columns):
        return pixels[:0]
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def low_bits_mask(count: int) -> np.ndarray:
    """`count` numbers below 16: the low bits of a linear congruential generator's states modulo 255."""
    states = np.empty(count, np.uint8)
    state = 0
    for index in range(count):
        state = (1664525 * state + 1013904223) % 2**32
        states[index] = state % 255
    return states & 0x0F
