"""Checkpoints as diffusers keeps them: a folder with `model_index.json` and a subfolder for every part.

Which files hold the weights, without reading them. Only safetensors count.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MODEL_INDEX = "model_index.json"
PARTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
"""Subfolder and what its weight files are called."""
VARIANTS = ("", "fp16", "bf16", "fp32", "ema", "non_ema")
"""`diffusion_pytorch_model.fp16.safetensors` and so on; the first that a part has is taken."""


def is_diffusers_folder(path: Path) -> bool:
    return os.path.isfile(path / MODEL_INDEX)


def part_files(folder: Path, part: str) -> list[Path]:
    """The safetensors files of a part, the shards of its index in their order; [] when it has none."""
    base = folder / part
    for variant in VARIANTS:
        single = base / f"{PARTS[part]}{'.' if variant else ''}{variant}.safetensors"
        if single.is_file():
            return [single]
        ending = f".{variant}.json" if variant else ".json"
        index = base / f"{PARTS[part]}.safetensors.index{ending}"
        if index.is_file():
            return _shards(index)
    return []


def _shards(index: Path) -> list[Path]:
    """Names in an index that lead out of its folder are left out; the tensors then count as missing."""
    found = read_json(index).get("weight_map")
    names = {str(name) for name in found.values()} if isinstance(found, dict) else set()
    plain = [name for name in sorted(names) if Path(name).name == name and name.endswith(".safetensors")]
    return [index.parent / name for name in plain]


def read_json(path: Path) -> dict[str, Any]:
    """`{}` for a file that is absent, broken or holds no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s cannot be read: %s", path, error)
        return {}
    return content if isinstance(content, dict) else {}


def weight_files(folder: Path) -> list[Path]:
    """The weight files of all parts that are there."""
    return [file for part in PARTS for file in part_files(folder, part) if file.is_file()]


def state_of(path: Path) -> tuple[int, int]:
    """(bytes, newest modification in ns) of a file, or of all files of a folder: its configurations count too.

    Raises OSError when it is gone.
    """
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    states = [file.stat() for file in files or [path]]
    return sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)


def folder_sha256(folder: Path) -> str:
    """SHA-256 over the names and the SHA-256 of the weight files, as 64 hex digits. Reads them all; raises OSError."""
    digest = hashlib.sha256()
    for file in weight_files(folder):
        with file.open("rb") as content:
            inner = hashlib.file_digest(content, "sha256").hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{inner}\n".encode())
    return digest.hexdigest()
