"""Which LoRAs and hypernetworks exist, and which file a name in a prompt means.

Follows A1111's Lora extension (`networks.py`, `network.py`) and `hypernetwork.py`.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sdwebui_api.catalog.files import FoundFile, find_files, natural_key, safetensors_metadata
from sdwebui_api.catalog.hashes import HashCache, sha256_or_none

logger = logging.getLogger(__name__)

LORA_SUFFIXES = (".pt", ".ckpt", ".safetensors")
HYPERNETWORK_SUFFIXES = (".pt",)
SHORT = 12
"""Digits of the short hash of a network in infotexts."""

_METADATA_FIRST = ("ss_sd_model_name", "ss_resolution", "ss_clip_skip", "ss_num_train_images", "ss_tag_frequency")


@dataclass(frozen=True)
class LoraFile:
    """A LoRA, LyCORIS or similar file. Equal to another when it is the same file with unchanged contents."""

    path: Path
    name: str
    """The file name without extension: what a prompt calls it."""
    size: int = 0
    mtime_ns: int = 0
    hashes: HashCache | None = field(default=None, compare=False, repr=False)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """What the training tool wrote into the file, objects unpacked, the most telling entries first."""
        plain = safetensors_metadata(self.path)
        ordered = sorted(plain, key=lambda key: _METADATA_FIRST.index(key) if key in _METADATA_FIRST else 99)
        return {key: unpacked(plain[key]) for key in ordered}

    @property
    def alias(self) -> str:
        """The name it was trained under; prompts may use it too."""
        alias = self.metadata.get("ss_output_name")
        return alias if isinstance(alias, str) and alias else self.name

    @property
    def shorthash(self) -> str:
        """As `Lora hashes` in infotexts shows it: of the tensors without the header. "" with `--no-hashing`."""
        return self._stated_hash() or (self._digest() or "")[:SHORT]

    @property
    def known_shorthash(self) -> str:
        """The same, "" unless it has been computed before; never reads the whole file."""
        if stated := self._stated_hash():
            return stated
        if self.hashes is None:
            return ""
        plain = self.path.suffix.lower() != ".safetensors"
        known = self.hashes.known_sha256(self.path) if plain else self.hashes.known_addnet(self.path)
        return (known or "")[:SHORT]

    def _stated_hash(self) -> str:
        stated = self.metadata.get("sshs_model_hash")
        return stated[:SHORT] if isinstance(stated, str) else ""

    def _digest(self) -> str | None:
        if self.hashes is None or self.path.suffix.lower() != ".safetensors":
            return sha256_or_none(self.hashes, self.path)
        try:
            return self.hashes.addnet(self.path)
        except (OSError, ValueError) as error:  # ValueError: a header that claims to be larger than any file
            logger.warning("no hash of %s: %s", self.path, error)
            return None


@dataclass(frozen=True)
class HypernetworkFile:
    path: Path
    name: str
    size: int = 0
    mtime_ns: int = 0


class LoraCatalog:
    """The LoRAs of this server. Thread-safe: readers see the listing of one moment."""

    def __init__(self, folders: Sequence[Path], hashes: HashCache | None) -> None:
        self._folders = tuple(folders)
        self._hashes = hashes
        self._refreshing = threading.Lock()
        self._listing = _Listing([])

    @property
    def folders(self) -> tuple[Path, ...]:
        return self._folders

    def refresh(self) -> None:
        """Look for files again. Of two files with one name the later folder's counts, as in A1111."""
        with self._refreshing:
            known = {file: file for file in self._listing.by_name.values()}
            found = [file for folder in self._folders for file in self._files(folder)]
            self._listing = _Listing([known.get(file, file) for file in found])

    def all(self) -> list[LoraFile]:
        return list(self._listing.by_name.values())

    def find(self, name: str) -> LoraFile | None:
        """The file that a prompt calls `name`: its file name or its alias."""
        return self._listing.find(name)

    def look_for(self, names: Iterable[str]) -> None:
        """Search the folders again, once, when one of `names` is unknown."""
        if not all(self.find(name) for name in names):
            self.refresh()

    def names(self) -> list[str]:
        """Every name that `find` knows."""
        return list(self._listing.by_alias)

    def with_hash(self, shorthash: str) -> LoraFile | None:
        """The file with this short hash, among those whose hash is known."""
        if not shorthash:  # asked for every tag of a stranger's text, and each answer looks at every file
            return None
        return next((file for file in self.all() if file.known_shorthash == shorthash), None)

    def preferred_name(self, file: LoraFile, option: str) -> str:
        """What a prompt should call it. `option`: `lora_preferred_name` ("Filename", "Alias from file")."""
        return file.name if option == "Filename" or self.find(file.alias) != file else file.alias

    def _files(self, folder: Path) -> list[LoraFile]:
        described = (self._describe(found) for found in _in_folder_order(folder, LORA_SUFFIXES))
        return [file for file in described if file is not None]

    def _describe(self, found: FoundFile) -> LoraFile | None:
        try:
            status = found.path.stat()
        except OSError as error:
            logger.warning("%s is left out: %s", found.path, error)
            return None
        return LoraFile(found.path, found.path.stem, status.st_size, status.st_mtime_ns, self._hashes)


class _Listing:
    """Files by name and by alias. An alias that two files claim calls neither of them."""

    def __init__(self, files: Sequence[LoraFile]) -> None:
        self.by_name: dict[str, LoraFile] = {}
        self.by_alias: dict[str, LoraFile] = {}
        self._claimed_twice = {"none", "addams"}  # what A1111's page could not tell from "no network"
        for file in files:
            if file.alias in self.by_alias:
                self._claimed_twice.add(file.alias.lower())
            self.by_name[file.name] = file
            self.by_alias[file.name] = self.by_alias[file.alias] = file

    def find(self, name: str) -> LoraFile | None:
        return (self.by_name if name.lower() in self._claimed_twice else self.by_alias).get(name)


class HypernetworkCatalog:
    """The hypernetworks of this server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, HypernetworkFile] = {}

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self._folder,)

    def refresh(self) -> None:
        files = {}
        for found in sorted(find_files([self._folder], HYPERNETWORK_SUFFIXES), key=lambda file: str(file.path).lower()):
            if found.path.stem == "None":  # would read as "no hypernetwork" in the option
                continue
            try:
                status = found.path.stat()
            except OSError as error:
                logger.warning("%s is left out: %s", found.path, error)
                continue
            name = found.path.stem
            files[name] = HypernetworkFile(found.path, name, status.st_size, status.st_mtime_ns)
        self._files = files

    def all(self) -> list[HypernetworkFile]:
        return list(self._files.values())

    def find(self, name: str) -> HypernetworkFile | None:
        return self._files.get(name)

    def look_for(self, names: Iterable[str]) -> None:
        """Search the folder again, once, when one of `names` is unknown."""
        if not all(self.find(name) for name in names):
            self.refresh()


def _in_folder_order(folder: Path, suffixes: tuple[str, ...]) -> list[FoundFile]:
    """A folder's own files before those of its subfolders, each in natural order."""
    found = find_files([folder], suffixes)
    return sorted(found, key=lambda file: (natural_key(str(Path(file.name).parent)), natural_key(file.path.name)))


def unpacked(value: str) -> Any:
    """A value of a file's metadata: the object whose JSON it is, or the text itself."""
    if value[:1] != "{":
        return value
    try:
        found = json.loads(value)
        # What no answer could hold is left packed: NaN, half characters.
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
        return found
    except (ValueError, RecursionError):
        return value
