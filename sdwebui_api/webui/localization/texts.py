"""The translations: one file per room below `zh/`, English text → Chinese text; English needs none."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

log = logging.getLogger(__name__)

Language = Literal["en", "zh_CN"]
LANGUAGES: tuple[Language, ...] = ("zh_CN", "en")

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Texts:
    """Tables by the name of their language. A text that a table lacks stays English."""

    tables: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def translate(self, text: str, language: str) -> str:
        return self.tables.get(language, {}).get(text, text)

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.tables)


def load_texts(folder: Path | None = None) -> Texts:
    """Our own languages, and those of `folder`: `<language>.json` each, in A1111's form, an object of texts.

    A file named as a language of ours changes texts of it. One that cannot be read is logged and left out.
    """
    tables: dict[str, dict[str, str]] = {"zh_CN": {}, "en": {}}
    for path in sorted((_HERE / "zh").glob("*.json")):
        tables["zh_CN"] |= _read(path)
    for path in sorted(folder.glob("*.json")) if folder is not None and folder.is_dir() else ():
        tables.setdefault(path.stem, {}).update(_read(path))
    return Texts(tables)


def message_templates() -> list[str]:
    """What the server says to every client and the page translates, with `{names}` where values stand."""
    return list(_read(_HERE / "zh" / "messages.json"))


def _read(path: Path) -> dict[str, str]:
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        log.warning("%s is no table of translations: %s", path, error)
        return {}
    if not isinstance(contents, dict):
        log.warning("%s is no table of translations: it holds no object", path)
        return {}
    return {str(text): spoken for text, spoken in contents.items() if isinstance(spoken, str) and spoken}
