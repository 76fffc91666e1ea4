"""Which models are offered: the list that ships with the program, and one of the data directory's owner.

Both are JSON, `{"models": [entry, …]}`. A wrong entry is left out and named; the others count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from sdwebui_api.config.flags import Flags, UserFlags
from sdwebui_api.config.paths import Paths
from sdwebui_api.errors import BadRequest
from sdwebui_api.storage.local import LONGEST_NAME, safe_name

SHIPPED = Path(__file__).with_name("models.json")
LOCAL_NAME = "model_zoo.json"
"""In the data directory."""
LARGEST_CATALOGUE = 2**20
MOST_ENTRIES = 1000
PART, NOTE = ".part", ".part.json"
"""Added to a file's name: what has arrived of it, and from where."""
ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".onnx")

Kind = Literal[
    "checkpoint", "vae", "lora", "embedding", "hypernetwork", "controlnet", "esrgan", "realesrgan", "swinir", "scunet",
    "dat", "hat", "gfpgan", "codeformer", "facedetection",
]  # fmt: skip
FOLDERS: Mapping[Kind, Callable[[Paths], Path]] = {
    "checkpoint": lambda paths: paths.checkpoint_dirs[0],
    "vae": lambda paths: paths.vae_dirs[0],
    "lora": lambda paths: paths.lora_dirs[0],
    "embedding": lambda paths: paths.embeddings_dir,
    "hypernetwork": lambda paths: paths.hypernetwork_dir,
    "controlnet": lambda paths: paths.controlnet_dirs[0],
    "esrgan": lambda paths: paths.upscaler_dirs["ESRGAN"],
    "realesrgan": lambda paths: paths.upscaler_dirs["RealESRGAN"],
    "swinir": lambda paths: paths.upscaler_dirs["SwinIR"],
    "scunet": lambda paths: paths.upscaler_dirs["ScuNET"],
    "dat": lambda paths: paths.upscaler_dirs["DAT"],
    "hat": lambda paths: paths.upscaler_dirs["HAT"],
    "gfpgan": lambda paths: paths.gfpgan_dirs[0],
    "codeformer": lambda paths: paths.codeformer_dir,
    "facedetection": lambda paths: paths.face_detection_dir,
}

Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Address = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^https?://[^\s/]+", max_length=2000)]


class Entry(BaseModel):
    """One file that can be fetched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    name: Line
    kind: Kind
    url: Address
    file: Line = ""
    """Its name in the folder of its kind, `sub/name.safetensors` too; without it, the URL's last part."""
    licence: Line
    homepage: Address | None = None
    description: Annotated[str, StringConstraints(max_length=500)] = ""
    size: Annotated[int, Field(gt=0, le=2**40)] | None = None
    """Bytes; None: not known before the host says it."""
    sha256: Annotated[str, StringConstraints(to_lower=True, pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    """None: no checksum has been published."""

    @model_validator(mode="before")
    @classmethod
    def _name_the_file(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.get("file") and isinstance(given.get("url"), str):
            return {**given, "file": _last_part(given["url"])}
        return given

    @field_validator("file")
    @classmethod
    def _plain_file(cls, file: str) -> str:
        parts = file.split("/")
        if any(not part or safe_name(part) != part or part.startswith(".") for part in parts) or len(parts) > 4:
            raise ValueError(f"{file!r} cannot be the name of a file in a model folder")
        if len((parts[-1] + NOTE).encode()) > LONGEST_NAME:
            raise ValueError("the file's name is too long")
        if not file.lower().endswith(ENDINGS):
            raise ValueError(f"expected a name that ends in {', '.join(ENDINGS)}")
        return file


def _last_part(url: str) -> str:
    try:
        return httpx.URL(url).path.rpartition("/")[2]
    except (httpx.InvalidURL, ValueError):
        return ""


@dataclass(frozen=True)
class Place:
    """Where an entry's file lies, and what there is of it before it is whole."""

    target: Path

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + PART)

    @property
    def note(self) -> Path:
        return self.target.with_name(self.target.name + NOTE)

    @property
    def received(self) -> int:
        try:
            return self.part.stat().st_size
        except OSError:
            return 0


def place_of(entry: Entry, flags: Flags) -> Place:
    """In the folder of its kind. Raises BadRequest (403) where links lead out of it, or where it is not the user's."""
    paths = Paths.from_flags(flags)
    folder = FOLDERS[entry.kind](paths)
    if isinstance(flags, UserFlags) and not folder.is_relative_to(paths.data_dir):
        raise BadRequest(f"All users share the folder for {entry.kind} files", field="id", status=403)
    target = folder / entry.file
    inside = Path(os.path.realpath(folder))
    if inside not in Path(os.path.realpath(target)).parents or target.is_symlink():
        raise BadRequest(f"{entry.file} would lie outside of {folder}", field="id", status=403)
    return Place(target)


@dataclass(frozen=True)
class Catalogue:
    entries: Mapping[str, Entry]
    """By id, in their order."""
    local: frozenset[str] = frozenset()
    """Ids that the owner's file has brought."""
    problems: tuple[str, ...] = ()


def read_shipped() -> Catalogue:
    entries: dict[str, Entry] = {}
    problems = tuple(_read(SHIPPED, entries))
    return Catalogue(entries, problems=problems)


def read_catalogue(data_dir: Path) -> Catalogue:
    """What ships and what the owner has added; an entry of theirs stands in the place of one with its id that ships.

    Never fails: what cannot be read is among the problems.
    """
    shipped, local = read_shipped(), data_dir / LOCAL_NAME
    own: dict[str, Entry] = {}
    problems = tuple(_read(local, own)) if os.path.lexists(local) else ()
    return Catalogue({**shipped.entries, **own}, frozenset(own), (*shipped.problems, *problems))


def _read(path: Path, entries: dict[str, Entry]) -> Iterator[str]:
    """Adds to `entries`; yields what is wrong."""
    try:
        found = _rows(path)
    except (OSError, ValueError, RecursionError) as error:
        yield f"{path.name}: {getattr(error, 'strerror', None) or error}"
        return
    if len(found) > MOST_ENTRIES:
        yield f"{path.name}: {len(found)} models, the first {MOST_ENTRIES} count"
    for number, row in enumerate(found[:MOST_ENTRIES]):
        try:
            entry = Entry.model_validate(row)
        except ValidationError as error:
            for problem in error.errors():
                where = ".".join((f"models[{number}]", *map(str, problem["loc"])))
                yield f"{path.name}: {where}: {problem['msg'].removeprefix('Value error, ')}"
            continue
        if entry.id in entries:
            yield f"{path.name}: models[{number}].id: there is a {entry.id!r} already"
        else:
            entries[entry.id] = entry


def _rows(path: Path) -> list[Any]:
    """Raises OSError and ValueError."""
    if not path.is_file():
        raise ValueError("expected a file")
    if path.stat().st_size > LARGEST_CATALOGUE:
        raise ValueError(f"larger than {LARGEST_CATALOGUE} bytes")
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not isinstance(found.get("models"), list):
        raise ValueError('expected an object such as {"models": [{"id": …}]}')
    return found["models"]
