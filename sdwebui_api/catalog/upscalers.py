"""The upscalers by name: the files in the upscaler folders, the rows of GET /upscalers, and the latent modes."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, overload

from sdwebui_api.catalog.files import find_files, unique_stem

log = logging.getLogger(__name__)

ENDINGS = (".pth", ".pt", ".safetensors")
DEFAULT_SCALE = 4.0


@dataclass(frozen=True)
class UpscalerRow:
    """One row of GET /upscalers. The fields are A1111's; they are null for upscalers that need no weights."""

    name: str
    model_name: str | None = None
    model_path: str | None = None
    model_url: str | None = None
    scale: float = DEFAULT_SCALE


@dataclass(frozen=True)
class UpscalerFile:
    """A network in one of the upscaler folders. `kind` is the folder's (`ESRGAN`, `DAT`), not the architecture's."""

    name: str
    path: Path
    kind: str

    @property
    def scale(self) -> float:
        """What the file's name says ("4x-UltraSharp", "DAT_x2"); 4, which A1111 shows for all, when it says nothing.

        Only shown: the network itself decides when it runs.
        """
        found = re.search(r"(?<![a-z0-9])(?:(\d{1,2})x|x(\d{1,2}))(?![0-9])", self.path.stem.lower())
        factor = int(found.group(1) or found.group(2)) if found else 0
        return float(factor) if 1 <= factor <= 16 else DEFAULT_SCALE

    def row(self) -> UpscalerRow:
        return UpscalerRow(self.name, _MODEL_NAMES.get(self.kind), str(self.path), scale=self.scale)


@dataclass(frozen=True)
class LatentUpscaleMode:
    """How torch's `interpolate` enlarges a latent."""

    mode: Literal["bilinear", "bicubic", "nearest", "nearest-exact"]
    antialias: bool = False


UPSCALERS: tuple[UpscalerRow, ...] = (UpscalerRow("None"), UpscalerRow("Lanczos"), UpscalerRow("Nearest"))
"""The upscalers without weights."""

LATENT_UPSCALE_MODES: Mapping[str, LatentUpscaleMode] = {
    "Latent": LatentUpscaleMode("bilinear"),
    "Latent (antialiased)": LatentUpscaleMode("bilinear", antialias=True),
    "Latent (bicubic)": LatentUpscaleMode("bicubic"),
    "Latent (bicubic antialiased)": LatentUpscaleMode("bicubic", antialias=True),
    "Latent (nearest)": LatentUpscaleMode("nearest"),
    "Latent (nearest-exact)": LatentUpscaleMode("nearest-exact"),
}

# GET /upscalers calls the files of a folder by what A1111's class for that folder is called.
_MODEL_NAMES = {"ESRGAN": "ESRGAN_4x", "SwinIR": "SwinIR 4x", "ScuNET": "ScuNET GAN"}

# A1111's names for the files that it offers to download; all other files are called by their stem.
_KNOWN_FILES: Mapping[str, str] = MappingProxyType(
    {
        "RealESRGAN_x2plus": "R-ESRGAN 2x+",
        "RealESRGAN_x4plus": "R-ESRGAN 4x+",
        "RealESRGAN_x4plus_anime_6B": "R-ESRGAN 4x+ Anime6B",
        "realesr-general-x4v3": "R-ESRGAN General 4xV3",
        "realesr-general-wdn-x4v3": "R-ESRGAN General WDN 4xV3",
        "realesr-animevideov3": "R-ESRGAN AnimeVideo",
        "DAT_x2": "DAT x2",
        "DAT_x3": "DAT x3",
        "DAT_x4": "DAT x4",
        "scunet_color_real_gan": "ScuNET GAN",
        "scunet_color_real_psnr": "ScuNET PSNR",
        "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN": "SwinIR 4x",
    }
)


class UpscalerCatalog:
    """The upscaler networks on disk. `all` answers from memory; `refresh` looks again."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """`folders`: kind to folder. LDSR is passed over: it is a diffusion model of its own, not a network."""
        self._folders = {kind: folder for kind, folder in folders.items() if kind != "LDSR"}
        self._files: tuple[UpscalerFile, ...] = ()

    def refresh(self) -> None:
        found: dict[str, UpscalerFile] = {row.name.lower(): UpscalerFile(row.name, Path(), "") for row in UPSCALERS}
        taken = len(found)
        for kind, folder in sorted(self._folders.items(), key=lambda item: item[0].lower()):
            for file in find_files([folder], ENDINGS):
                stem = unique_stem(file.path.name, ENDINGS)
                candidate = UpscalerFile(_KNOWN_FILES.get(stem, stem), file.path, kind)
                first = found.setdefault(candidate.name.lower(), candidate)
                if first is not candidate:
                    log.warning("%s is not offered: %r is taken by %s", file.path, candidate.name, first.path)
        self._files = tuple(found.values())[taken:]

    def all(self) -> Sequence[UpscalerFile]:
        return self._files

    def rows(self) -> list[UpscalerRow]:
        """Those without weights first, as A1111 sorts."""
        return [*UPSCALERS, *(file.row() for file in self._files)]


class HiresUpscalers(Sequence[str]):
    """Every accepted `hr_upscaler`, always those of now: the latent modes, then the rows of GET /upscalers."""

    def __init__(self, catalog: UpscalerCatalog) -> None:
        self._catalog = catalog

    def _names(self) -> list[str]:
        return [*LATENT_UPSCALE_MODES, *(row.name for row in self._catalog.rows())]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._names()[index]

    def __len__(self) -> int:
        return len(self._names())

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __contains__(self, name: object) -> bool:
        return name in self._names()
