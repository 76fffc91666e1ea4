"""What stands beside a model file: its picture, and what somebody wrote about it.

Names and keys are A1111's: `<name>.preview.png` or `<name>.png`, and `<name>.json` with "description",
"activation text", "negative text", "preferred weight" and "notes"; the description may also be `<name>.txt`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdwebui_api.catalog.files import whole_characters

log = logging.getLogger(__name__)

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
PREVIEWS = (*(f".preview{suffix}" for suffix in PICTURE_SUFFIXES), *PICTURE_SUFFIXES)
"""What follows the name of a model in the name of its picture, the best first."""
DESCRIPTIONS = (".txt", ".description.txt")
LARGEST_TEXT = 1024 * 1024
LARGEST_WEIGHT = 10.0

DESCRIPTION, ACTIVATION, NEGATIVE, WEIGHT, NOTES = (
    "description", "activation text", "negative text", "preferred weight", "notes",
)  # fmt: skip
"""Keys of `<name>.json`."""


@dataclass(frozen=True)
class About:
    """What somebody wrote about a model. weight: 0 means the server's default."""

    description: str = ""
    activation: str = ""
    negative: str = ""
    weight: float = 0.0
    notes: str = ""


class Neighbours:
    """The files of folders as they are now, every folder listed once."""

    def __init__(self) -> None:
        self._listings: dict[Path, dict[str, os.DirEntry[str]]] = {}

    def picture(self, model: Path) -> os.DirEntry[str] | None:
        beside = self._beside(model)
        names = (model.stem + ending for ending in PREVIEWS)
        return next((beside[name] for name in names if name in beside), None)

    def about(self, model: Path) -> About:
        """A file that cannot be read counts as none."""
        beside = self._beside(model)
        found = read_json(model) if f"{model.stem}.json" in beside else {}
        texts = (beside[model.stem + ending] for ending in DESCRIPTIONS if model.stem + ending in beside)
        described = _text(found, DESCRIPTION) or next((_contents(Path(entry.path)) for entry in texts), "")
        return About(described, _text(found, ACTIVATION), _text(found, NEGATIVE), _weight(found), _text(found, NOTES))

    def times(self, model: Path) -> tuple[float, float]:
        """(created, modified) in seconds; zeros when the file has gone."""
        entry = self._beside(model).get(model.name)
        try:
            status = entry.stat() if entry is not None else model.stat()
        except OSError:
            return 0.0, 0.0
        return status.st_ctime, status.st_mtime

    def _beside(self, model: Path) -> Mapping[str, os.DirEntry[str]]:
        folder = model.parent
        if folder not in self._listings:
            try:
                with os.scandir(folder) as entries:
                    self._listings[folder] = {entry.name: entry for entry in entries}
            except OSError:
                self._listings[folder] = {}
        return self._listings[folder]


def read_json(model: Path) -> dict[str, Any]:
    """`<name>.json`; empty when there is none, or when it holds no object."""
    try:
        found = json.loads(_contents(model.with_name(f"{model.stem}.json")) or "{}")
    except (ValueError, RecursionError) as error:
        log.warning("what is written about %s cannot be read: %s", model, error)
        return {}
    return found if isinstance(found, dict) else {}


def write_about(model: Path, about: About) -> None:
    """Into `<name>.json`, whose other entries stay. Raises OSError."""
    changed = {
        DESCRIPTION: about.description, ACTIVATION: about.activation, NEGATIVE: about.negative, WEIGHT: about.weight,
        NOTES: about.notes,
    }  # fmt: skip
    text = json.dumps(read_json(model) | changed, indent=4, ensure_ascii=False)
    written = model.with_name(f"{model.stem}.json.tmp")
    written.write_text(text, encoding="utf-8")
    os.replace(written, model.with_name(f"{model.stem}.json"))


def _contents(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(LARGEST_TEXT)
    except OSError:
        return ""


def _text(found: Mapping[str, Any], key: str) -> str:
    value = found.get(key)
    return whole_characters(value) if isinstance(value, str) else ""


def _weight(found: Mapping[str, Any]) -> float:
    try:
        weight = float(found.get(WEIGHT) or 0)
    except (TypeError, ValueError):
        return 0.0
    return weight if abs(weight) <= LARGEST_WEIGHT else 0.0
