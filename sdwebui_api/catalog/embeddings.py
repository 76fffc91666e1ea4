"""Which textual inversion files exist. What is inside them is the engine's business."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdwebui_api.catalog.files import find_files

logger = logging.getLogger(__name__)

SUFFIXES = (".pt", ".bin", ".safetensors", ".png", ".webp", ".jxl", ".avif")
PREVIEWS = tuple(f".preview{suffix}" for suffix in SUFFIXES)


@dataclass(frozen=True)
class EmbeddingFile:
    """A file that may hold an embedding. A picture may carry another name inside."""

    path: Path
    name: str
    """The file name without extension: the word that calls the embedding in a prompt."""
    size: int = 0
    mtime_ns: int = 0


def list_embeddings(folders: Sequence[Path]) -> list[EmbeddingFile]:
    """Files below `folders` in natural order; empty files, those that vanish and preview pictures are left out."""
    files = []
    for found in find_files(folders, SUFFIXES, PREVIEWS):
        try:
            status = found.path.stat()
        except OSError as error:
            logger.warning("%s is left out: %s", found.path, error)
            continue
        if status.st_size:
            files.append(EmbeddingFile(found.path, found.path.stem, status.st_size, status.st_mtime_ns))
    return files
