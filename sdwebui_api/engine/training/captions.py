"""What the model is told about a training image: template files, captions and their tags.

A template has one sentence per line; `[name]` is the word being taught, `[filewords]` the image's caption.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import regex

from sdwebui_api.errors import BadRequest, NotFound, nearest

SHIPPED = Path(__file__).parent / "data" / "textual_inversion_templates"
LONGEST_CAPTION = 20_000
LARGEST_TEMPLATE = 2**20
"""Bytes."""

REGEX_SECONDS = 2.0
"""For the words of one file's name."""

_OPTION = "dataset_filename_word_regex"
_NUMBERS_AT_START = re.compile(r"^[-\d]+\s*")


@dataclass(frozen=True)
class FileNameWords:
    """How a caption is made of a file's name where no text file lies beside it."""

    pattern: regex.Pattern[str] | None = None
    """Option `dataset_filename_word_regex`: only what it finds, if given …"""
    joint: str = " "
    """… joined by `dataset_filename_join_string`."""

    @classmethod
    def from_options(cls, pattern: str, joint: str) -> FileNameWords:
        """Raises BadRequest naming the option."""
        try:
            return cls(regex.compile(pattern) if pattern else None, joint)
        except (regex.error, RecursionError, OverflowError) as error:
            raise BadRequest(f"not a regular expression: {error}", field=_OPTION) from error

    def of(self, stem: str) -> str:
        """`00012-0-a red apple` → `a red apple`.

        Raises BadRequest when the pattern takes too long: `regex`, unlike `re`, can be stopped, and it is a client's.
        """
        words = _NUMBERS_AT_START.sub("", stem)
        if self.pattern is None:
            return words
        try:
            return self.joint.join(found[0] for found in self.pattern.finditer(words, timeout=REGEX_SECONDS))
        except TimeoutError:
            raise BadRequest("this regular expression takes too long", field=_OPTION) from None


def caption_of(image: Path, names: FileNameWords) -> str:
    """The text file of the same name beside the image, else the words of the image's name."""
    text_file = image.with_suffix(".txt")
    try:
        with text_file.open(encoding="utf-8", errors="replace") as file:
            return file.read(LONGEST_CAPTION).strip()
    except FileNotFoundError:
        return names.of(image.stem)


@dataclass(frozen=True)
class PromptWriter:
    """Makes training prompts. `placeholder`: what `[name]` becomes."""

    templates: tuple[str, ...]
    placeholder: str
    shuffle_tags: bool = False
    tag_drop_out: float = 0.0
    """Share of the tags left out of a prompt, [0, 1]."""

    def prompt(self, caption: str, dice: random.Random) -> str:
        """A random template, filled; `caption` is split at commas where tags are shuffled or dropped."""
        template = dice.choice(self.templates)
        return template.replace("[name]", self.placeholder).replace("[filewords]", self._tags(caption, dice))

    def _tags(self, caption: str, dice: random.Random) -> str:
        if not self.shuffle_tags and not self.tag_drop_out:
            return caption
        tags = [tag.strip() for tag in caption.split(",")]
        if self.tag_drop_out:
            tags = [tag for tag in tags if dice.random() > self.tag_drop_out]
        if self.shuffle_tags:
            dice.shuffle(tags)
        return ", ".join(tags)


def read_template(name: str, folders: Sequence[Path], field: str = "template_filename") -> tuple[str, ...]:
    """The lines of the template file `name` in the first of `folders` that has it, empty lines left out.

    Raises NotFound naming `field` and the names there are; BadRequest for a file without a line.
    """
    files = _template_files(folders)
    path = files.get(name) or files.get(f"{name}.txt")
    if path is None:
        raise NotFound(f"There is no template file {name[:100]!r}", field=field, choices=nearest(name, files, 20))
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = file.read(LARGEST_TEMPLATE).splitlines()
    templates = tuple(line.strip() for line in lines if line.strip())
    if not templates:
        raise BadRequest(f"The template file {path.name} is empty", field=field)
    return templates


def _template_files(folders: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.txt")) if folder.is_dir() else ():
            found.setdefault(path.name, path)
    return found
