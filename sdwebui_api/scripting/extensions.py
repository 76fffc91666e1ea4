"""Which script files and extensions exist: folders, `metadata.ini`, enabling, loading order, git facts.

Nothing is imported here. The rules are A1111's (`modules/extensions.py`, `modules/scripts.py` list_scripts).
"""

from __future__ import annotations

import configparser
import logging
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

GIT_SECONDS = 5
_SEPARATORS = re.compile(r"[;,\s]+")


@dataclass(frozen=True)
class ExtensionFolder:
    """One folder below `extensions`. `builtin`: it came with the program."""

    path: Path
    builtin: bool = False
    enabled: bool = True

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def metadata(self) -> configparser.ConfigParser:
        """`metadata.ini`; empty when there is none or it cannot be read."""
        parser = configparser.ConfigParser()
        try:
            parser.read(self.path / "metadata.ini", encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            log.warning("%s: metadata.ini is not readable: %s", self.path, error)
        return parser

    @property
    def canonical_name(self) -> str:
        """What others name it by in `Requires`, `Before` and `After`, in lower case."""
        return self.metadata.get("Extension", "Name", fallback=self.name).strip().lower()

    def named(self, section: str, key: str) -> tuple[str, ...]:
        """The names that `key` of the extension or of one of its files lists, in lower case."""
        texts = [self.metadata.get(place, key, fallback="") for place in dict.fromkeys((section, "Extension"))]
        return tuple(name.lower() for text in texts for name in _SEPARATORS.split(text) if name)

    def script_files(self) -> list[Path]:
        return sorted((path for path in (self.path / "scripts").glob("*.py")), key=lambda path: path.name.lower())

    @property
    def needs_installing(self) -> bool:
        """It has an `install.py` or requirements, which this server never runs by itself."""
        return any((self.path / name).is_file() for name in ("install.py", "requirements.txt"))

    def row(self) -> dict[str, Any]:
        """As GET /extensions answers it; read from the files of git, without the network."""
        git = GitFacts(self.path / ".git")
        return {
            "name": self.name,
            "remote": git.remote,
            "branch": git.branch,
            "commit_hash": git.commit,
            "version": git.commit[:8],
            "commit_date": git.commit_date(),
            "enabled": self.enabled,
        }


@dataclass(frozen=True)
class GitFacts:
    """What a clone knows about itself. Everything is empty where there is no `.git`."""

    folder: Path

    @property
    def remote(self) -> str:
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        try:
            parser.read(self.folder / "config", encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            return ""
        return parser.get('remote "origin"', "url", fallback="")

    @property
    def branch(self) -> str:
        head = self._head
        return head.removeprefix("ref: refs/heads/") if head.startswith("ref: ") else ""

    @property
    def commit(self) -> str:
        head = self._head
        if not head.startswith("ref: "):
            return head
        reference = head.removeprefix("ref: ")
        return _text(self.folder / reference) or self._packed(reference)

    def commit_date(self) -> int:
        """Seconds since 1970; 0 when git is not there to ask."""
        if not self.commit:
            return 0
        command = ["git", "--git-dir", str(self.folder), "log", "-1", "--format=%ct"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
            return int(answer.stdout)
        except (OSError, ValueError, subprocess.SubprocessError):
            return 0

    @property
    def _head(self) -> str:
        return _text(self.folder / "HEAD")

    def _packed(self, reference: str) -> str:
        for line in _text(self.folder / "packed-refs").splitlines():
            commit, _, name = line.partition(" ")
            if name.strip() == reference:
                return commit
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


@dataclass(frozen=True)
class Switches:
    """What is not loaded: flags and options, as A1111 names them.

    disable_all: option `disable_all_extensions` ("none", "extra" or "all"); disabled: option `disabled_extensions`.
    """

    all_by_flag: bool = False
    extra_by_flag: bool = False
    disable_all: str = "none"
    disabled: frozenset[str] = frozenset()

    def enables(self, folder: Path, builtin: bool) -> bool:
        if self.all_by_flag or self.disable_all == "all":
            return False
        if not builtin and (self.extra_by_flag or self.disable_all == "extra"):
            return False
        return folder.name not in self.disabled


def find_extensions(places: Sequence[Path], shipped: Path | None, switches: Switches) -> list[ExtensionFolder]:
    """The folders in `places`, in the order of their names. Those that git knows of below `shipped` are built in.

    A built-in one says so in its metadata.ini (`[Extension] Builtin = true`), for users may clone others beside it.
    """
    found: dict[str, ExtensionFolder] = {}
    for place in dict.fromkeys(places):
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if not path.is_dir() or path.name.startswith((".", "_")) or path.name in found:
                continue
            folder = ExtensionFolder(path)
            builtin = place == shipped and folder.metadata.getboolean("Extension", "Builtin", fallback=False)
            found[path.name] = ExtensionFolder(path, builtin, switches.enables(path, builtin))
    return sorted(found.values(), key=lambda folder: folder.name.lower())


@dataclass(frozen=True)
class ScriptFile:
    """A file to load. `base` is its extension's folder, or the folder that holds `scripts`."""

    path: Path
    base: Path
    extension: ExtensionFolder | None = None

    @property
    def canonical_name(self) -> str:
        owner = f"{self.extension.canonical_name}/" if self.extension else ""
        return f"{owner}{self.path.name.lower()}"

    def named(self, key: str) -> tuple[str, ...]:
        return self.extension.named(f"scripts/{self.path.name}", key) if self.extension else ()


@dataclass
class _Order:
    """Files sorted so that `Before` and `After` of metadata.ini hold."""

    files: Sequence[ScriptFile]
    after: dict[str, list[str]] = field(default_factory=dict)

    def sorted(self) -> list[ScriptFile]:
        by_name = {file.canonical_name: file for file in self.files}
        for file in self.files:
            self._note(file.canonical_name, [*file.named("After"), *file.named("Requires")])
            for name in self._resolve(file.named("Before")):
                self._note(name, [file.canonical_name])
        done: dict[str, ScriptFile] = {}
        for name in by_name:
            self._visit(name, by_name, done, ())
        return list(done.values())

    def _note(self, name: str, others: Iterable[str]) -> None:
        self.after.setdefault(name, []).extend(self._resolve(others))

    def _resolve(self, names: Iterable[str]) -> list[str]:
        """Names of extensions stand for all of their files."""
        wanted = set(names)
        return [
            file.canonical_name
            for file in self.files
            if file.canonical_name in wanted or (file.extension and file.extension.canonical_name in wanted)
        ]

    def _visit(
        self, name: str, files: Mapping[str, ScriptFile], done: dict[str, ScriptFile], path: tuple[str, ...]
    ) -> None:
        if name in done:
            return
        if name in path:
            log.warning("metadata.ini: circular order: %s", " → ".join([*path, name]))
            return
        for other in self.after.get(name, ()):
            if other != name:
                self._visit(other, files, done, (*path, name))
        done[name] = files[name]


def script_files(folders: Sequence[Path], extensions: Sequence[ExtensionFolder]) -> list[ScriptFile]:
    """Every file to load, in order: those of `folders` (each holds `scripts`), then those of enabled extensions.

    An extension whose `Requires` are not there is loaded all the same, as in A1111, with an error in the log.
    """
    files = [
        ScriptFile(path, folder)
        for folder in dict.fromkeys(folders)
        for path in sorted((folder / "scripts").glob("*.py"), key=lambda path: path.name.lower())
    ]
    enabled = [extension for extension in extensions if extension.enabled]
    for extension in enabled:
        files += [ScriptFile(path, extension.path, extension) for path in extension.script_files()]
        for missing in set(extension.named("Extension", "Requires")) - {e.canonical_name for e in enabled}:
            log.error("extension %s requires %r, which is not installed or not enabled", extension.name, missing)
    return _Order([file for file in files if not file.path.name.startswith("_")]).sorted()
