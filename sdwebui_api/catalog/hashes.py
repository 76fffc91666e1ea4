"""SHA-256 of model files, computed once per file and remembered on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from sdwebui_api.catalog.diffusers_folders import folder_sha256, state_of
from sdwebui_api.config.options import write_json_atomically

logger = logging.getLogger(__name__)

SHORT = 10
"""Digits of the short hash in titles and infotexts (what model sites call AutoV2)."""


@dataclass(frozen=True)
class _Entry:
    size: int
    mtime_ns: int
    digest: str


class HashCache:
    """Digests by path, valid while size and modification time stay. Safe to use from any thread.

    Two threads that ask for the same file compute it once; different files are computed side by side.
    """

    def __init__(self, path: Path | None) -> None:
        """`path`: the JSON file that remembers; None keeps everything in memory."""
        self._path = path
        self._lock = threading.Lock()
        self._computing: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._entries = _read_entries(path)

    def sha256(self, path: Path) -> str:
        """Of the whole file: 64 lower-case hex digits. Reads the file the first time; raises OSError.

        Of a diffusers folder: of its weight files' names and hashes.
        """
        return self._digest("sha256", path, skip_header=False)

    def addnet(self, path: Path) -> str:
        """Of a safetensors file's tensor data without the header, as kohya's tools name LoRAs. Raises OSError."""
        return self._digest("addnet", path, skip_header=True)

    def known_sha256(self, path: Path) -> str | None:
        """The digest if it was computed before and the file has not changed since; never reads the file."""
        return self._known_or_none("sha256", path)

    def known_addnet(self, path: Path) -> str | None:
        """The same for `addnet`."""
        return self._known_or_none("addnet", path)

    def _known_or_none(self, kind: str, path: Path) -> str | None:
        try:
            return self._known(kind, path)
        except OSError:
            return None

    def _known(self, kind: str, path: Path) -> str | None:
        state = state_of(path)
        entry = self._entries.get(_key(kind, path))
        if entry and (entry.size, entry.mtime_ns) == state:
            return entry.digest
        return None

    def _digest(self, kind: str, path: Path, *, skip_header: bool) -> str:
        known = self._known(kind, path)
        if known:
            return known
        key = _key(kind, path)
        with self._lock:
            turn = self._computing[key]
        with turn:
            known = self._known(kind, path)
            if known:
                return known
            size, mtime_ns = state_of(path)
            digest = _hash_file(path, skip_header=skip_header)
            self._remember(key, _Entry(size, mtime_ns, digest))
            return digest

    def _remember(self, key: str, entry: _Entry) -> None:
        with self._lock:
            self._entries = {**self._entries, key: entry}  # replaced, not changed: readers take no lock
            if self._path is None:
                return
            try:
                write_json_atomically(self._path, {name: asdict(entry) for name, entry in self._entries.items()})
            except OSError as error:
                logger.warning("hashes cannot be kept in %s: %s", self._path, error)


def sha256_or_none(hashes: HashCache | None, path: Path) -> str | None:
    """The digest of a listed file; None without a cache (`--no-hashing`) or when the file cannot be read."""
    if hashes is None:
        return None
    try:
        return hashes.sha256(path)
    except OSError as error:
        logger.warning("no hash of %s: %s", path, error)
        return None


def _key(kind: str, path: Path) -> str:
    return f"{kind}/{path.absolute()}"


def _hash_file(path: Path, *, skip_header: bool) -> str:
    if path.is_dir():
        return folder_sha256(path)
    with path.open("rb") as file:
        if skip_header:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_entries(path: Path | None) -> dict[str, _Entry]:
    if path is None or not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {key: _Entry(int(e["size"]), int(e["mtime_ns"]), str(e["digest"])) for key, e in stored.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        logger.warning("%s is unreadable (%s); hashes are computed again", path, error)
        return {}
