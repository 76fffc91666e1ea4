"""Prompt styles: named pieces of prompt in CSV files, in A1111's format."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

LARGEST_FILE = 64 * 1024 * 1024


@dataclass(frozen=True)
class Style:
    """`{prompt}` in either text stands for the client's prompt; without it the text is appended."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""


class StyleCatalog:
    """The styles of all files; of two with one name the later counts, at the place of the first."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Nothing is read before `refresh`; missing files are no error."""
        self._paths = tuple(files)
        self._styles: dict[str, Style] = {}

    def refresh(self) -> None:
        self._styles = {style.name: style for path in self._paths for style in read_styles(path)}

    def all(self) -> list[Style]:
        """In the order of the files."""
        return list(self._styles.values())

    def find(self, name: str) -> Style | None:
        """None for an unknown name, which A1111 ignores."""
        return self._styles.get(name)


def read_styles(path: Path) -> list[Style]:
    """The styles in one CSV file with the columns name, prompt (or text, in old files), negative_prompt.

    Missing columns are empty; rows without a name or with a name that begins with `#` are left out.
    An unreadable file gives a warning and no styles.
    """
    try:
        if not path.exists():
            return []
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError("too large")
        text = _decode(path.read_bytes(), path)
        rows = list(csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True))
    except (OSError, ValueError, csv.Error) as error:
        logger.warning("styles in %s cannot be read: %s", path, error)
        return []
    return [_style(row) for row in rows if row.get("name") and not str(row["name"]).startswith("#")]


def _decode(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        logger.warning("%s is not UTF-8; unreadable characters are replaced", path)
        return raw.decode("utf-8-sig", errors="replace")


def _style(row: dict[str, str | None]) -> Style:
    prompt = row["prompt"] if "prompt" in row else row.get("text")
    return Style(str(row["name"]), prompt or "", row.get("negative_prompt") or "")
