"""What of the data directory may be seen and changed, and where a path that a client spells really lies.

Open are the folders directly below the data directory, with everything in them, but for:

- files that lie directly in it: settings, the queue's database, log-ins;
- names that begin with a dot, at any depth;
- folders whose contents the program runs, or keeps for itself (`RESERVED`);
- where the data directory is the program's own folder (the default), every folder but those for content (`CONTENT`);
- files that a flag names as settings, keys, tokens or database, wherever they lie;
- whatever a symbolic link leads to outside of all that. Only a folder of `CONTENT` may itself be a link, to a larger
  disk, say: that one was made by the owner of the machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sdwebui_api.config.flags import Flags, default_data_dir
from sdwebui_api.config.paths import Paths
from sdwebui_api.errors import BadRequest, NotFound
from sdwebui_api.queueing.settings import queue_settings
from sdwebui_api.storage.local import LONGEST_FOLDER, LONGEST_NAME, safe_name

CONTENT = ("model_store", "models", "embeddings", "outputs", "log", "textual_inversion", "datasets", "uploads")
RESERVED = frozenset(
    {
        *("scripts", "extensions", "extensions-builtin", "modules", "javascript", "html", "repositories", "venv"),
        *("config_states", "localizations", "cache", "tmp", "users", "textual_inversion_templates", "lost+found"),
    }
)
_NEVER = re.compile(r"[\\\x00-\x1f\x7f]")


@dataclass(frozen=True)
class FileTree:
    """Paths of clients are relative to `data_dir`, with slashes; the empty one is the list of open folders.

    protected: real paths that are out of reach, with all below them.
    """

    data_dir: Path
    protected: tuple[Path, ...] = ()

    @classmethod
    def from_flags(cls, flags: Flags) -> FileTree:
        paths = Paths.from_flags(flags)
        named = [path for path in _secrets(flags, paths) if path is not None]
        return cls(paths.data_dir, tuple(Path(os.path.realpath(path)) for path in named))

    # -- where things are ------------------------------------------------------------------------------------------

    def find(self, path: str, field: str = "path") -> Path:
        """What `path` names; it exists. Raises BadRequest (403, 422) and NotFound."""
        found = self.place(path, field)
        if not os.path.lexists(found):
            raise NotFound(f"There is no {path[:200]!r}", field=field)
        return found

    def folder(self, path: str, field: str = "path") -> Path:
        found = self.find(path, field)
        if not found.is_dir():
            raise BadRequest(f"{path[:200]!r} is no folder", field=field)
        return found

    def file(self, path: str, field: str = "path") -> Path:
        """A regular file: what else there is (pipes, devices) could block who opens it."""
        found = self.find(path, field)
        if not found.is_file():
            raise BadRequest(f"{path[:200]!r} is no file", field=field)
        return found

    def new(self, path: str, field: str = "path") -> Path:
        """Where something called `path` may be made, in a folder that exists."""
        place = self.place(path, field)
        name = path.rpartition("/")[2]
        if not name or safe_name(name) != name:
            raise BadRequest(f"{name[:200]!r} cannot be the name of a file or folder on every system", field=field)
        if not place.parent.is_dir():
            raise NotFound(f"There is no folder {path.rpartition('/')[0][:200]!r}", field=field)
        return place

    def changeable(self, path: str, field: str = "path") -> Path:
        """What may be renamed, moved and deleted: anything but the top folders and what holds protected files."""
        found = self.find(path, field)
        real = Path(os.path.realpath(found))
        if "/" not in path or any(real in kept.parents for kept in self.protected):
            raise _refused(path, field)
        return found

    def place(self, path: str, field: str) -> Path:
        """Below the data directory, through links that stay inside; need not exist."""
        parts = path.split("/") if path else []
        if any(not _usable(part) for part in parts):
            raise _refused(path, field)
        if any(len(part.encode()) > LONGEST_NAME for part in parts) or len(path.encode()) > LONGEST_FOLDER // 2:
            raise BadRequest("the path is too long", field=field)
        found = self.data_dir.joinpath(*parts)
        if parts and not self._open(found, parts[0]):
            raise _refused(path, field)
        return found

    def _open(self, path: Path, top: str) -> bool:
        """Both as it is spelled and where it really lies."""
        if not self._open_top(top) or (path.parent == self.data_dir and path.exists() and not path.is_dir()):
            return False
        real = Path(os.path.realpath(path))
        if any(real == kept or kept in real.parents or _beside(real, kept) for kept in self.protected):
            return False
        return any(_visible_below(real, root) for root in self._roots(top))

    def _roots(self, top: str) -> Iterator[Path]:
        """Real folders in which something below `top` may lie."""
        data = os.path.realpath(self.data_dir)
        for name in {top, *CONTENT}:
            real = Path(os.path.realpath(self.data_dir / name))
            if (real == Path(data, name) or name in CONTENT) and self._open_top(name):
                yield real

    def _open_top(self, name: str) -> bool:
        if self._is_program and name not in CONTENT:
            return False
        return name.casefold() not in RESERVED and not name.startswith(".")

    @property
    def _is_program(self) -> bool:
        return os.path.realpath(self.data_dir) == os.path.realpath(default_data_dir())

    # -- what is there ---------------------------------------------------------------------------------------------

    def entries(self, path: str) -> Iterator[os.DirEntry[str]]:
        """What is open in a folder, in no order. Raises as `folder`, and OSError."""
        folder = self.folder(path)
        with os.scandir(folder) as found:
            for entry in found:
                below = f"{path}/{entry.name}" if path else entry.name
                if _usable(entry.name) and self._open(folder / entry.name, below.partition("/")[0]):
                    yield entry


def _usable(name: str) -> bool:
    """As part of a path: no way up, nothing hidden, nothing that a log or another system reads otherwise."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return bool(name) and not name.startswith(".") and not _NEVER.search(name)


def _visible_below(real: Path, root: Path) -> bool:
    if real == root:
        return True
    return root in real.parents and not any(part.startswith(".") for part in real.relative_to(root).parts)


def _beside(real: Path, kept: Path) -> bool:
    """`queue.sqlite3-wal` belongs to `queue.sqlite3`."""
    return real.parent == kept.parent and real.name.startswith(f"{kept.name}-")


def _secrets(flags: Flags, paths: Paths) -> Iterable[Path | None]:
    names = (
        flags.token_file, flags.tls_keyfile, flags.tls_certfile, flags.gradio_auth_path, flags.ui_config_file,
        flags.callback_secret_file, flags.queue_config, flags.localizations_dir,
    )  # fmt: skip
    yield from (Path(name).expanduser() for name in names if name)
    yield from (paths.options_file, paths.cache_dir)
    queue = queue_settings(flags, paths.data_dir)
    yield queue.sqlite_file if queue.url.startswith("sqlite") else None


def _refused(path: str, field: str) -> BadRequest:
    return BadRequest(f"{path[:200]!a} is not among the folders that may be browsed here", field=field, status=403)
