"""Which checkpoints exist, and by which names clients may call them."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sdwebui_api.catalog.diffusers_folders import is_diffusers_folder, state_of
from sdwebui_api.catalog.files import FoundFile, find_files, natural_key, safetensors_metadata
from sdwebui_api.catalog.hashes import SHORT, HashCache, sha256_or_none
from sdwebui_api.errors import NotFound, nearest

logger = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".ckpt")
VAE_SUFFIXES = (".vae.safetensors", ".vae.ckpt")
SHORTEST_FRAGMENT = 3
LARGEST_NATIVE_SIDE = 4096
_HEX = re.compile(r"[0-9a-f]{6,64}")
_TITLE = re.compile(r"(?P<name>.+?)\s*\[(?P<hash>[0-9a-fA-F]{6,64})\]")


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint on disk: a file, or a folder of diffusers. Equal to another when it is the same with unchanged
    contents."""

    path: Path
    name: str
    """Relative to its folder, `sub/x.safetensors`."""
    size: int = 0
    mtime_ns: int = 0
    hashes: HashCache | None = field(default=None, compare=False, repr=False)
    """None with `--no-hashing`: the file has no hash then."""

    @property
    def bare_name(self) -> str:
        """`name` without the file's ending."""
        return self.name.rsplit(".", 1)[0] if self.name.lower().endswith(SUFFIXES) else self.name

    @property
    def model_name(self) -> str:
        """As GET /sd-models spells it: no extension, folders joined by `_`."""
        return self.bare_name.replace("/", "_")

    @property
    def stem(self) -> str:
        """The file's own name without extension: `Model` in infotexts, `sd_model_name` in `info`."""
        return self.path.stem if self.path.name.lower().endswith(SUFFIXES) else self.path.name

    @property
    def sha256(self) -> str | None:
        """Computed on first use (seconds for a large file). None with `--no-hashing` or when unreadable."""
        return sha256_or_none(self.hashes, self.path)

    @property
    def known_sha256(self) -> str | None:
        """`sha256` if it was computed before; costs nothing."""
        return self.hashes.known_sha256(self.path) if self.hashes else None

    @property
    def shorthash(self) -> str | None:
        sha256 = self.sha256
        return sha256[:SHORT] if sha256 else None

    @property
    def title(self) -> str:
        """`name [shorthash]`; computes the hash."""
        return _title(self.name, self.sha256)

    @property
    def known_title(self) -> str:
        """`title` as far as it is known without reading the file: `name` alone before it was hashed, as in A1111."""
        return _title(self.name, self.known_sha256)

    @property
    def config_path(self) -> Path | None:
        """The `.yaml` beside the file."""
        path = self.path.with_name(f"{self.stem}.yaml")
        return path if path.is_file() else None

    @cached_property
    def metadata(self) -> dict[str, str]:
        """`__metadata__` of a safetensors file, else `{}`. Read once; do not change."""
        return safetensors_metadata(self.path)

    @cached_property
    def native_size(self) -> tuple[int, int] | None:
        """(width, height) the checkpoint was trained for, from `modelspec.resolution` ("1024x1024" or "512").

        Rounded down to whole latent cells of 8 pixels; None when absent or absurd.
        """
        match = re.fullmatch(r"\s*(\d{1,5})(?:\s*[xX×]\s*(\d{1,5}))?\s*", self.metadata.get("modelspec.resolution", ""))
        if not match:
            return None
        width, height = int(match[1]), int(match[2] or match[1])
        if not (64 <= width <= LARGEST_NATIVE_SIDE and 64 <= height <= LARGEST_NATIVE_SIDE):
            return None
        return width // 8 * 8, height // 8 * 8


def _title(name: str, sha256: str | None) -> str:
    return f"{name} [{sha256[:SHORT]}]" if sha256 else name


MANY_CHOICES = 10
"""Names shown to a client whose name is like none of them."""


class CheckpointCatalog:
    """The checkpoints of this server. `refresh` looks at the disk; everything else answers from memory."""

    def __init__(
        self,
        folders: Sequence[Path],
        hashes: HashCache | None,
        *,
        fallback: Path | None = None,
        initial: str | None = None,
    ) -> None:
        """`fallback`: folder used while `folders` hold no checkpoint. `initial`: `--ckpt`, a file or a name.

        Nothing is read before `refresh`; call it once.
        """
        self._folders = tuple(folders)
        self._fallback = fallback
        self._hashes = hashes
        self._initial = initial
        self._lock = threading.Lock()
        self._files: tuple[CheckpointFile, ...] = ()
        self._default: CheckpointFile | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """Searched for files; the last one only while the others hold none."""
        return (*self._folders, self._fallback) if self._fallback else self._folders

    def refresh(self) -> None:
        """Looks for files again. Unchanged files keep their object, and with it what was read from them."""
        with self._lock:
            known = {file: file for file in self._files}
            files = [known.get(file, file) for file in self._scan()]
            self._files = tuple(files)
            self._default = self._choose_default()

    def all(self, compute_hashes: bool = False) -> list[CheckpointFile]:
        """In natural order of names. With `compute_hashes`, in the caller's thread, so that titles are ready."""
        files = list(self._files)
        if compute_hashes:
            for file in files:
                _ = file.sha256
        return files

    def default(self) -> CheckpointFile | None:
        """The checkpoint of `--ckpt`, else the first; None when there is none."""
        return self._default

    def find(self, text: str, field: str = "sd_model_checkpoint") -> CheckpointFile:
        """The checkpoint that `text` names: file name with or without extension or folder, title (its hash may be
        out of date), model_name, short hash, sha256 or the start of one, path of a listed file; in any letter
        case; at last a part of a name that only one checkpoint has.

        Raises NotFound(field) with the nearest names. Only listed files are ever answered.
        """
        files, wanted = self._files, text.strip()
        match = _TITLE.fullmatch(wanted)
        bare, digits = (match["name"], match["hash"]) if match else (wanted, wanted)
        for candidates in _attempts(files, wanted, bare, digits.lower()):
            if len(candidates) == 1 or (candidates and _same_model(candidates)):
                return candidates[0]
            if candidates:
                raise _unknown(text, field, [file.name for file in candidates], "names several checkpoints")
        names = [file.name for file in files]
        raise _unknown(text, field, nearest(bare, names) or names[:MANY_CHOICES], "not found")

    def _choose_default(self) -> CheckpointFile | None:
        if self._initial:
            path = Path(self._initial).expanduser().absolute()
            try:
                return self.find(str(path) if _is_checkpoint(path) else self._initial, "ckpt")
            except NotFound as error:
                logger.warning("--ckpt: %s", error.message)
        return self._files[0] if self._files else None

    def _scan(self) -> list[CheckpointFile]:
        found = find_files(self._folders, SUFFIXES, VAE_SUFFIXES, is_diffusers_folder)
        given = Path(self._initial).expanduser().absolute() if self._initial else None
        listed = {file.path for file in found}
        if given and given not in listed and _is_checkpoint(given):
            found.append(FoundFile(given, given.name))
            found.sort(key=lambda file: natural_key(file.name))
        if not found and self._fallback:
            found = find_files([self._fallback], SUFFIXES, VAE_SUFFIXES, is_diffusers_folder)
        return [checkpoint for file in found if (checkpoint := self._describe(file))]

    def _describe(self, file: FoundFile) -> CheckpointFile | None:
        try:
            size, mtime_ns = state_of(file.path)
        except OSError as error:
            logger.warning("%s is left out: %s", file.path, error)
            return None
        return CheckpointFile(file.path, file.name, size, mtime_ns, self._hashes)


def _is_checkpoint(path: Path) -> bool:
    return (path.is_file() and path.suffix.lower() in SUFFIXES) or is_diffusers_folder(path)


def _names(file: CheckpointFile) -> set[str]:
    return {file.name, file.bare_name, file.model_name, file.path.name, file.stem, str(file.path)}


def _attempts(files: Sequence[CheckpointFile], wanted: str, bare: str, digits: str) -> Iterable[list[CheckpointFile]]:
    """Ever looser readings of a name; the first that matches anything decides.

    `bare` and `digits` are the name and the hash when `wanted` is a title; the hash finds a file that was renamed.
    """

    def where(test: Callable[[CheckpointFile], bool]) -> list[CheckpointFile]:
        return [file for file in files if test(file)]

    if not wanted:
        return
    yield where(lambda file: wanted in (file.name, file.known_title))
    yield where(lambda file: wanted in _names(file))
    yield where(lambda file: bare in _names(file))
    folded = bare.casefold()
    yield where(lambda file: folded in {name.casefold() for name in _names(file)})
    if _HEX.fullmatch(digits):
        yield where(lambda file: (file.known_sha256 or "").startswith(digits))
        yield where(lambda file: (file.sha256 or "").startswith(digits))
    if len(folded) >= SHORTEST_FRAGMENT:
        yield where(lambda file: folded in file.name.casefold())


def _same_model(files: Sequence[CheckpointFile]) -> bool:
    """`a.ckpt` beside `a.safetensors`: either will do, so the first listed is taken."""
    return len({file.bare_name for file in files}) == 1


def _unknown(text: str, field: str, choices: Sequence[str], what: str) -> NotFound:
    shown = text if len(text) <= 100 else text[:97] + "..."
    listed = f"; choices: {', '.join(choices)}" if choices else "; no checkpoint is installed"
    return NotFound(f"Checkpoint {shown!r} {what}{listed}", field=field, choices=choices)
