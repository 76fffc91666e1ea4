"""Finding model files: folders walked in the order A1111 lists them, and the headers of safetensors files."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

LARGEST_HEADER = 100 * 1024 * 1024
"""The limit of the safetensors library."""


@dataclass(frozen=True)
class FoundFile:
    """A file (or a folder that counts as one) below a searched folder. `name` is relative, with forward slashes."""

    path: Path
    name: str


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sort key: letter case ignored, runs of digits by their value ("v2" before "v10")."""
    parts = re.split(r"(\d+)", text.lower())
    return [(0, int(part), part) if part.isdigit() and part.isascii() else (1, 0, part) for part in parts]


def find_files(
    folders: Iterable[Path],
    suffixes: Iterable[str],
    excluded: Iterable[str] = (),
    is_unit: Callable[[Path], bool] = lambda folder: False,
) -> list[FoundFile]:
    """Files ending in one of `suffixes` but in none of `excluded`, below every folder, in natural order.

    A subfolder that `is_unit` is found itself, and nothing in it. Links are followed. Of two files with the same
    relative name the one in the earlier folder counts. Names that are no text (not UTF-8) are left out: no client could
    be told of them.
    """
    wanted, unwanted = tuple(suffixes), tuple(excluded)
    found: dict[str, FoundFile] = {}
    for folder in folders:
        for path in _walk(folder, is_unit):
            lower = path.name.lower()
            if path.is_dir() or (lower.endswith(wanted) and not (unwanted and lower.endswith(unwanted))):
                name = path.relative_to(folder).as_posix() if path != folder else path.name
                if whole_characters(name) != name:
                    logger.warning("%a is left out: its name is not UTF-8", str(path))
                    continue
                first = found.setdefault(name, FoundFile(path, name))
                if first.path != path:
                    logger.warning("%s is hidden by %s, which has the same name", path, first.path)
    return sorted(found.values(), key=lambda file: natural_key(file.name))


def _walk(folder: Path, is_unit: Callable[[Path], bool]) -> Iterator[Path]:
    visited: set[str] = set()
    for root, subfolders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in visited:  # a link that leads back up
            subfolders.clear()
            continue
        visited.add(real)
        if is_unit(Path(root)):
            subfolders.clear()
            yield Path(root)
            continue
        # unlike Path.is_file, which raises for a link to a name that no file can have, or to where nobody may look
        yield from (Path(root, name) for name in files if os.path.isfile(os.path.join(root, name)))


def whole_characters(text: str) -> str:
    """`text` as UTF-8 can hold it: half a character (of a JSON escape, or of another encoding) becomes `?`."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def unique_stem(name: str, endings: Iterable[str]) -> str:
    """`name` without the first of `endings` it has (compared in lower case)."""
    lower = name.lower()
    return next((name[: -len(ending)] for ending in endings if lower.endswith(ending)), name)


def safetensors_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, `{}` for a file that is none.

    Layout: eight bytes of little-endian length, then that many bytes of JSON (huggingface/safetensors, format).
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(LARGEST_HEADER, path.stat().st_size - 8):
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("a header that is no object")
        return header
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s has no readable safetensors header: %s", path, error)
        return {}


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The free-form `__metadata__` of a safetensors file; `{}` for other files and broken ones."""
    if path.suffix.lower() != ".safetensors":
        return {}
    metadata = safetensors_header(path).get("__metadata__")
    if not isinstance(metadata, dict):
        return {}
    return {whole_characters(key): whole_characters(value) for key, value in metadata.items() if isinstance(value, str)}
