"""Prompt styles: named pieces of prompt in CSV files, in A1111's format."""

from __future__ import annotations

import csv
import io
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

LARGEST_FILE = 64 * 1024 * 1024
COLUMNS = ("name", "prompt", "negative_prompt")


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
        self._writing = threading.Lock()

    def refresh(self) -> None:
        self._styles = {style.name: style for path in self._paths for style in read_styles(path)}

    def all(self) -> list[Style]:
        """In the order of the files."""
        return list(self._styles.values())

    def find(self, name: str) -> Style | None:
        """None for an unknown name, which A1111 ignores."""
        return self._styles.get(name)

    def save(self, style: Style) -> None:
        """In place of the one of that name, in its file; else at the end of the first file.

        Raises OSError; ValueError for a name or text that no file can hold, and for a file that would be damaged.
        """
        if not style.name.strip() or style.name.startswith("#"):
            raise ValueError("the name of a style begins with neither white space nor #")
        if max(map(len, (style.name, style.prompt, style.negative_prompt))) > csv.field_size_limit():
            raise ValueError(f"a text of a style has at most {csv.field_size_limit()} characters")
        with self._writing:
            path = self._file_of(style.name) or self._paths[0]
            columns, rows = _rows(path)
            text = "prompt" if "prompt" in columns else "text"
            row: dict[str, str | None] = {**asdict(style), text: style.prompt}
            at = next((index for index, known in enumerate(rows) if known.get("name") == style.name), len(rows))
            rows[at : at + 1] = [{**(rows[at] if at < len(rows) else {}), **row}]
            _write(path, columns, rows)
            self.refresh()

    def delete(self, name: str) -> bool:
        """Whether there was one. Raises as `save`."""
        with self._writing:
            path = self._file_of(name)
            if path is None:
                return False
            columns, rows = _rows(path)
            _write(path, columns, [row for row in rows if row.get("name") != name])
            self.refresh()
            return True

    def _file_of(self, name: str) -> Path | None:
        """The file whose style of that name counts."""
        holding = (path for path in reversed(self._paths) if any(style.name == name for style in read_styles(path)))
        return next(holding, None)


def _rows(path: Path) -> tuple[list[str], list[dict[str, str | None]]]:
    """(columns, all rows, those that are no styles too) of a file that is to be written again."""
    if not path.exists():
        return list(COLUMNS), []
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path.name} is too large")
    reader = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), skipinitialspace=True)
    try:
        rows = [dict(row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    columns = list(reader.fieldnames or COLUMNS)
    old = "text" in columns and "prompt" not in columns
    wanted = ("name", "text", "negative_prompt") if old else COLUMNS
    return columns + [name for name in wanted if name not in columns], rows


def _write(path: Path, columns: list[str], rows: list[dict[str, str | None]]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f"{path.name}.tmp")
    written.write_bytes(buffer.getvalue().encode("utf-8-sig"))  # so that spreadsheets see what it is
    os.replace(written, path)


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
