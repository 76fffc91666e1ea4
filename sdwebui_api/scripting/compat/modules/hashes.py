"""`modules.hashes`: SHA-256 of model files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from sdwebui_api.catalog import hashes
from sdwebui_api.scripting.compat.world import world


@lru_cache(maxsize=1)
def _cache(path: str) -> hashes.HashCache:
    return hashes.HashCache(Path(path))


def _hashes() -> hashes.HashCache:
    return _cache(str(world().paths.cache_dir / "hashes-of-extensions.json"))


def sha256(filename: str, title: str = "", use_addnet_hash: bool = False) -> str | None:
    return None if world().flags.no_hashing else _hashes().sha256(Path(filename))


def calculate_sha256(filename: str) -> str:
    return _hashes().sha256(Path(filename))


def sha256_from_cache(filename: str, title: str = "", use_addnet_hash: bool = False) -> str | None:
    return _hashes().known_sha256(Path(filename))


def partial_hash_from_cache(filename: str, *, ignore_errors: bool = False, digits: int = 8) -> Any:
    found = sha256_from_cache(filename)
    return found[:digits] if found else None
