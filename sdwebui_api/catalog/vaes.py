"""Which VAE files exist, and which one a checkpoint goes with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sdwebui_api.catalog.checkpoints import CheckpointFile
from sdwebui_api.catalog.files import find_files, natural_key, unique_stem
from sdwebui_api.catalog.hashes import SHORT, HashCache, sha256_or_none
from sdwebui_api.errors import NotFound, nearest

logger = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".ckpt", ".pt")
BESIDE_CHECKPOINT = (".vae.safetensors", ".vae.ckpt", ".vae.pt")
"""Endings that mark a VAE in a folder of checkpoints."""

AUTOMATIC, NONE = "Automatic", "None"


@dataclass(frozen=True)
class VaeFile:
    """A VAE on disk. Equal to another when it is the same file with unchanged contents."""

    path: Path
    name: str
    """The file name, as GET /sd-vae and the option `sd_vae` spell it."""
    size: int = 0
    mtime_ns: int = 0
    hashes: HashCache | None = field(default=None, compare=False, repr=False)

    @property
    def stem(self) -> str:
        """The name without extension, `.vae` included in it: what a checkpoint's stem is compared with."""
        return unique_stem(self.name, (*BESIDE_CHECKPOINT, *SUFFIXES))

    @property
    def sha256(self) -> str | None:
        """Computed on first use. None with `--no-hashing` or when the file cannot be read."""
        return sha256_or_none(self.hashes, self.path)

    @property
    def shorthash(self) -> str | None:
        sha256 = self.sha256
        return sha256[:SHORT] if sha256 else None


class VaeCatalog:
    """The VAE files of this server. `refresh` looks at the disk; everything else answers from memory."""

    def __init__(
        self,
        folders: Sequence[Path],
        checkpoint_folders: Sequence[Path],
        hashes: HashCache | None,
        *,
        forced: Path | None = None,
    ) -> None:
        """`checkpoint_folders` are searched for `*.vae.*`. `forced`: `--vae-path`, used whatever is asked for."""
        self._folders = tuple(folders)
        self._checkpoint_folders = tuple(checkpoint_folders)
        self._hashes = hashes
        self._forced = forced
        self._files: tuple[VaeFile, ...] = ()

    def refresh(self) -> None:
        """Looks for files again. Of two files with one name the one in the VAE folder counts."""
        found = [
            *find_files(self._folders, SUFFIXES),
            *find_files(self._checkpoint_folders, BESIDE_CHECKPOINT),
        ]
        by_name: dict[str, VaeFile] = {}
        for file in found:
            if (vae := self._describe(file.path)) is not None:
                by_name.setdefault(vae.name, vae)
        self._files = tuple(sorted(by_name.values(), key=lambda vae: natural_key(vae.name)))

    def all(self) -> list[VaeFile]:
        """In natural order of names."""
        return list(self._files)

    def find(self, text: str, field: str = "sd_vae") -> VaeFile:
        """The file that `text` names, with or without extension, in any letter case.

        Raises NotFound(field) with the nearest names. Only listed files are ever answered.
        """
        wanted = text.strip().casefold()
        for vae in self._files:
            if wanted == vae.name.casefold():
                return vae
        for vae in self._files:
            if wanted in (vae.stem.casefold(), vae.path.stem.casefold(), str(vae.path).casefold()):
                return vae
        names = [AUTOMATIC, NONE, *(vae.name for vae in self._files)]
        choices = nearest(text, names)
        shown = text if len(text) <= 100 else text[:97] + "..."
        raise NotFound(f"VAE {shown!r} not found; choices: {', '.join(choices)}", field=field, choices=choices)

    def resolve(self, option_value: str | None, checkpoint: CheckpointFile, field: str = "sd_vae") -> VaeFile | None:
        """The VAE for `checkpoint` under the setting `sd_vae`; None: the one inside the checkpoint.

        "Automatic" (also empty and null) takes the file named like the checkpoint, beside it or in the VAE folder.
        Raises NotFound(field) when another name is not listed, UnusableModel never.
        """
        if self._forced is not None:
            return self._forced_file(self._forced)
        plain = (option_value or AUTOMATIC).strip().casefold()
        if plain == NONE.casefold():
            return None
        if plain in (AUTOMATIC.casefold(), "auto", ""):
            return self._named_like(checkpoint)
        return self.find(option_value or "", field)

    def _forced_file(self, path: Path) -> VaeFile:
        vae = self._describe(path)
        if vae is None:
            raise NotFound(f"the VAE of --vae-path does not exist: {path}")
        return vae

    def _named_like(self, checkpoint: CheckpointFile) -> VaeFile | None:
        beside = [checkpoint.path.with_name(checkpoint.stem + ending) for ending in BESIDE_CHECKPOINT]
        for vae in self._files:
            if vae.path in beside:
                return vae
        return next((vae for vae in self._files if vae.stem == checkpoint.stem), None)

    def _describe(self, path: Path) -> VaeFile | None:
        try:
            status = path.stat()
        except OSError as error:
            logger.warning("%s is left out: %s", path, error)
            return None
        return VaeFile(path, path.name, status.st_size, status.st_mtime_ns, self._hashes)
