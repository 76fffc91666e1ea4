"""Uploads in parts. What has arrived waits in a hidden file beside its target, which appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from file_browser.changes import Taken, disk_errors
from file_browser.tree import FileTree
from sdwebui_api.errors import BadRequest, NotStored, PayloadTooLarge
from sdwebui_api.storage.local import publish, sync_folder

MOST_BYTES = 100 * 2**30
"""Of one file; the largest open models have some 50 GiB."""
PART_BYTES = 8 * 2**20
"""What a client should send at once."""
MOST_PART_BYTES = 64 * 2**20
SPARE_BYTES = 64 * 2**20
"""Room on the disk that uploads leave to the server."""
KEPT_SECONDS = 7 * 86_400
"""How long an upload that nobody goes on with waits."""
PREFIX, SUFFIX = ".upload-", ".part"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Upload:
    """id: chosen by the client, the same when it goes on; path: as it spells it."""

    path: str
    target: Path
    size: int
    id: str
    replace: bool = False

    @property
    def part(self) -> Path:
        key = hashlib.sha256(f"{self.target}\n{self.size}\n{self.id}".encode()).hexdigest()[:32]
        return self.target.with_name(f"{PREFIX}{key}{SUFFIX}")

    @property
    def received(self) -> int:
        """Bytes that need not be sent again."""
        try:
            return self.part.stat().st_size
        except FileNotFoundError:
            return 0


@dataclass
class Uploads:
    """Safe to share between threads: of one upload one part at a time is written."""

    _busy: set[Path] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def admit(self, tree: FileTree, path: str, size: int, id: str, replace: bool) -> Upload:
        """Raises BadRequest (403, 409, 422), NotFound, PayloadTooLarge, and NotStored when there is no room."""
        if not _ID.fullmatch(id):
            raise BadRequest("1 to 64 letters, digits, - and _ are expected", field="id")
        if size > MOST_BYTES:
            raise PayloadTooLarge(f"A file may have {MOST_BYTES // 2**30} GiB at most", field="size")
        target = tree.new(path)
        if "/" not in path:
            raise BadRequest("files belong into one of the folders", field="path", status=403)
        _check_free(target, path, replace)
        upload = Upload(path, target, size, id, replace)
        with disk_errors(path):
            _forget_old(target.parent)
            missing = size - upload.received
            if missing + SPARE_BYTES > shutil.disk_usage(target.parent).free:
                raise NotStored(f"{path[:200]!r} does not fit on the disk")
        return upload

    @contextmanager
    def writing(self, upload: Upload, offset: int) -> Iterator[BinaryIO]:
        """The open file, at `offset`, which has to be where the last part ended."""
        with self._claimed(upload.part, upload.path), disk_errors(upload.path):
            if offset != upload.received:
                raise Taken(f"{upload.received} bytes have arrived so far, not {offset}", "offset")
            with upload.part.open("ab") as file:
                yield file

    def finish(self, upload: Upload, file: BinaryIO) -> bool:
        """Whether that was all; then the file is there, on the disk, under its name. Called while it is written."""
        file.flush()
        if upload.received < upload.size:
            return False
        os.fsync(file.fileno())
        _check_free(upload.target, upload.path, upload.replace)
        if upload.replace:
            os.replace(upload.part, upload.target)
        elif publish(upload.part, upload.target):
            upload.part.unlink(missing_ok=True)
        else:
            raise Taken(f"There is a {upload.path[:200]!r} already")
        sync_folder(upload.target.parent)
        return True

    def discard(self, upload: Upload) -> None:
        with self._claimed(upload.part, upload.path), disk_errors(upload.path):
            upload.part.unlink(missing_ok=True)

    @contextmanager
    def _claimed(self, part: Path, path: str) -> Iterator[None]:
        with self._lock:
            if part in self._busy:
                raise Taken(f"Another part of {path[:200]!r} is being written")
            self._busy.add(part)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(part)


def _check_free(target: Path, path: str, replace: bool) -> None:
    if os.path.lexists(target) and not (replace and target.is_file() and not target.is_symlink()):
        raise Taken(f"There is a {path[:200]!r} already")


def _forget_old(folder: Path) -> None:
    """Uploads that nobody went on with."""
    for part in folder.glob(f"{PREFIX}*{SUFFIX}"):
        if part.stat().st_mtime < time.time() - KEPT_SECONDS:
            part.unlink(missing_ok=True)
