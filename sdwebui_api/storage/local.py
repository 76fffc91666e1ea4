"""Pictures on the local disk: folders that cannot be left, and files that appear whole or not at all.

A path that is returned is on the disk, its name included: a power cut after that loses nothing.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from sdwebui_api.errors import BadRequest

log = logging.getLogger(__name__)

OUTPUT_FOLDERS = ("outputs", "log")
"""Folders of the data directory that pictures may be written to; `log/images` is A1111's "save" button."""

LONGEST_NAME = 240
"""Bytes of a file or folder name: below the 255 of common file systems, with room for temporary suffixes."""
LONGEST_FOLDER = 3800
"""Bytes of a folder's path: below Linux's 4096, with room for a file name."""

_RESERVED = re.compile(r'[<>:"|?*\\/\x00-\x1f\x7f]')
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_ATTEMPTS = 10_000


class LocalStorage:
    """Writes below `data_dir/outputs` and `data_dir/log`, nowhere else. Safe to share between threads and processes."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.absolute()

    def folder(self, spelled: str, field: str) -> Path:
        """The absolute folder that an option such as `outdir_txt2img_samples` names, below the data directory.

        Raises BadRequest naming `field` when it lies elsewhere, also by way of `..` or symbolic links.
        """
        if not spelled.strip() or "\0" in spelled:
            raise BadRequest(f"{spelled!r} is not a folder for pictures", field=field)
        folder = self._data_dir / spelled.strip()
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in folder.parts):
            raise BadRequest(f"a folder name of more than {LONGEST_NAME} bytes", field=field)
        self._check_inside(folder, field)
        return folder

    def subfolder(self, folder: Path, path: str, field: str) -> Path:
        """`folder` extended by the parts of `path`; parts that would lead out of it are dropped."""
        parts = [safe_name(part) for part in re.split(r"[\\/]+", path)]
        result = folder.joinpath(*(part for part in parts if part))
        self._check_inside(result, field)
        return result

    def _check_inside(self, folder: Path, field: str) -> None:
        if len(os.fsencode(folder)) > LONGEST_FOLDER:
            raise BadRequest(f"a folder whose path has more than {LONGEST_FOLDER} bytes", field=field)
        resolved = Path(os.path.realpath(folder))
        # An outputs folder that is itself a link (to a larger disk, say) was put there by the owner of the machine.
        allowed = [Path(os.path.realpath(self._data_dir / name)) for name in OUTPUT_FOLDERS]
        if not any(resolved == base or base in resolved.parents for base in allowed):
            names = " or ".join(repr(name) for name in OUTPUT_FOLDERS)
            raise BadRequest(f"pictures are only saved below {names} of the data directory", field=field)

    def save_new(self, folder: Path, name: Callable[[int], str], data: bytes, first: int = 0) -> Path:
        """Write `data` under the first free of `name(first)`, `name(first + 1)`, … and return its path.

        An existing file is never overwritten, however many threads and processes save at once.
        """
        make_folder(folder)
        temporary = _write_temporary(folder, data)
        try:
            path = _publish_first_free(temporary, folder, name, first)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(folder)
        return path

    def save(self, path: Path, data: bytes) -> Path:
        """Write `data` to `path`, replacing what is there in one step."""
        return write_file(path.with_name(fitting_name(path.name)), data)


def write_file(path: Path, data: bytes) -> Path:
    """Write `data` to `path`, replacing what is there in one step; on the disk before this returns. Raises OSError."""
    make_folder(path.parent)
    temporary = _write_temporary(path.parent, data)
    try:
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return path


def make_folder(folder: Path) -> None:
    """With its parents, their names on the disk too."""
    missing = [folder, *folder.parents]
    missing = missing[: next(index for index, parent in enumerate(missing) if parent.exists())]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def next_sequence_number(folder: Path, basename: str = "") -> int:
    """One more than the highest number that a file in `folder` begins with (after `basename-`)."""
    prefix = f"{basename}-" if basename else ""
    highest = -1
    if folder.is_dir():
        for entry in os.scandir(folder):
            if entry.name.startswith(prefix):
                number = re.match(r"\d{1,15}(?=[-.]|$)", entry.name[len(prefix) :])
                highest = max(highest, int(number[0])) if number else highest
    return highest + 1


def safe_name(text: str, longest: int = LONGEST_NAME) -> str:
    """`text` as one file or folder name on every system, at most `longest` bytes; empty when nothing is left (`..`)."""
    name = _RESERVED.sub("_", text).strip(" ").rstrip(" .")
    if not name.strip("."):
        return ""
    return _shortened(f"_{name}" if _DEVICES.fullmatch(name) else name, longest)


def fitting_name(name: str) -> str:
    """`name` with its stem shortened until the whole fits the file system."""
    stem, extension = os.path.splitext(name)
    if not 1 < len(extension) <= 6:
        stem, extension = name, ""
    return _shortened(stem, LONGEST_NAME - len(extension.encode())) + extension


def _shortened(text: str, longest: int) -> str:
    # Not every client sends valid Unicode: lone surrogates cannot be file names.
    return text.encode("utf-8", errors="replace")[:longest].decode("utf-8", errors="ignore")


def _write_temporary(folder: Path, data: bytes) -> Path:
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".saving-", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; pictures get what the user's umask allows.
        os.chmod(name, 0o666 & ~_umask())
    except OSError:
        os.unlink(name)
        raise
    return Path(name)


def sync_folder(folder: Path) -> None:
    """New names in `folder` are on the disk after this, where the file system can promise that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise
        log.debug("%s: folders cannot be synced here: %s", folder, error)  # some network and FUSE file systems
    finally:
        os.close(descriptor)


def _umask() -> int:
    """The process's umask, read without changing it where the system tells (setting it is not thread-safe)."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("Umask:")[1].split()[0], 8)
    except (OSError, IndexError, ValueError):
        return 0o022


def _publish_first_free(temporary: Path, folder: Path, name: Callable[[int], str], first: int) -> Path:
    for number in range(first, first + _ATTEMPTS):
        path = folder / fitting_name(name(number))
        if publish(temporary, path):
            return path
    raise OSError(f"no free file name in {folder} after {_ATTEMPTS} attempts")


def publish(temporary: Path, path: Path) -> bool:
    """Give `temporary` the name `path` unless that is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:
        return _publish_without_links(temporary, path)  # file systems such as FAT or some network shares
    return True


def _publish_without_links(temporary: Path, path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    os.replace(temporary, path)
    return True
