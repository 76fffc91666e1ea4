"""Which control models exist, and which file a unit's `model` means.

Follows the ControlNet extension 1.1.455 (`global_state.py`): models are listed as `stem [hash]`, the hash being that
of 64 KiB at 1 MiB into the file; a unit may leave the hash or the ending out, or send a fragment of the name.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdwebui_api.catalog.files import find_files
from sdwebui_api.errors import BadRequest, nearest

logger = logging.getLogger(__name__)

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".bin")
NO_MODEL = "None"
_HASH_OFFSET, _HASH_LENGTH, _HASH_DIGITS = 0x100000, 0x10000, 8


@dataclass(frozen=True)
class ControlModelFile:
    """A control network. Equal to another when it is the same file with unchanged contents."""

    path: Path
    name: str
    """The file name without its ending."""
    shorthash: str
    size: int = 0
    mtime_ns: int = 0

    @property
    def title(self) -> str:
        """As listings show it and clients send it back."""
        return f"{self.name} [{self.shorthash}]"


class ControlModelCatalog:
    """The control models of this server. Thread-safe: readers see the listing of one moment."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._refreshing = threading.Lock()
        self._files: tuple[ControlModelFile, ...] = ()

    @property
    def folders(self) -> tuple[Path, ...]:
        return self._folders

    def refresh(self) -> None:
        """Look for files again. Of two files with one name the earlier folder's counts."""
        with self._refreshing:
            known = {(file.path, file.size, file.mtime_ns): file for file in self._files}
            found: dict[str, ControlModelFile] = {}
            for candidate in find_files(self._folders, SUFFIXES):
                file = _describe(candidate.path, known)
                if file is not None:
                    found.setdefault(file.name, file)
            self._files = tuple(sorted(found.values(), key=lambda file: file.name.lower()))

    def all(self) -> list[ControlModelFile]:
        return list(self._files)

    def find(self, text: str, field: str = "model") -> ControlModelFile:
        """Letter case ignored. Searches the folders again for an unknown name.

        Raises BadRequest(field) with the nearest titles.
        """
        found = self._match(text)
        if found is None:
            self.refresh()
            found = self._match(text)
        if found is None:
            titles = [file.title for file in self._files]
            raise BadRequest(f"Control model '{text[:200]}' not found", field=field, choices=nearest(text, titles))
        return found

    def _match(self, text: str) -> ControlModelFile | None:
        """The title, the name, else the shortest name that holds the text."""
        wanted = text.strip().lower()
        bare = _without_suffix(re.sub(r"\s*\[[0-9a-f]+\]$", "", wanted))
        for file in self._files:
            if wanted == file.title.lower():
                return file
        for file in self._files:
            if bare == file.name.lower():
                return file
        holding = [file for file in self._files if bare and bare in file.name.lower()]
        return min(holding, key=lambda file: len(file.name), default=None)


def _without_suffix(name: str) -> str:
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.endswith(suffix)), name)


def _describe(path: Path, known: dict[tuple[Path, int, int], ControlModelFile]) -> ControlModelFile | None:
    try:
        status = path.stat()
        found = known.get((path, status.st_size, status.st_mtime_ns))
        return found or ControlModelFile(path, path.stem, _short_hash(path), status.st_size, status.st_mtime_ns)
    except OSError as error:
        logger.warning("%s is left out: %s", path, error)
        return None


def _short_hash(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(_HASH_OFFSET)
        return hashlib.sha256(file.read(_HASH_LENGTH)).hexdigest()[:_HASH_DIGITS]
