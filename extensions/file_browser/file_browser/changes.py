"""New folders, renaming, deleting; and what the disk answers, in words of this program."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from file_browser.tree import FileTree
from sdwebui_api.errors import BadRequest, NotFound, NotStored
from sdwebui_api.storage.local import publish, sync_folder

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.EBUSY)


class Taken(BadRequest):
    """Something is in the way (409)."""

    def __init__(self, message: str, field: str = "path") -> None:
        super().__init__(message, field=field, status=409)


@contextmanager
def disk_errors(path: str, field: str = "path") -> Iterator[None]:
    """OSError as one of the error family: no state of the disk is a fault of the program."""
    shown = path[:200]
    try:
        yield
    except FileNotFoundError:
        raise NotFound(f"There is no {shown!r} any more", field=field) from None
    except OSError as error:
        if error.errno in _FULL:
            raise NotStored(f"{shown!r} does not fit on the disk: {error.strerror}") from error
        if error.errno in _TAKEN:
            raise Taken(f"{shown!r}: {error.strerror}", field) from error
        raise BadRequest(f"{shown!r}: {error.strerror or error}", field=field, status=403) from error


def make_folder(tree: FileTree, path: str) -> None:
    place = tree.new(path)
    with disk_errors(path):
        place.mkdir()
        sync_folder(place.parent)


def move(tree: FileTree, path: str, to: str) -> None:
    """Renames, or moves to another folder. Nothing is ever replaced."""
    source, target = tree.changeable(path), tree.new(to, "to")
    if "/" not in to:
        raise BadRequest("only folders can lie there, and these are not moved", field="to", status=403)
    if os.path.lexists(target):
        raise Taken(f"There is a {to[:200]!r} already", "to")
    if source in target.parents:
        raise BadRequest("a folder cannot be moved into itself", field="to")
    with disk_errors(path):
        if source.lstat().st_dev != target.parent.stat().st_dev:
            raise BadRequest("that folder is on another disk: download and upload instead", field="to")
        if source.is_symlink() or source.is_dir():
            os.rename(source, target)
        elif publish(source, target):
            source.unlink(missing_ok=True)
        else:
            raise Taken(f"There is a {to[:200]!r} already", "to")
        sync_folder(target.parent)
        sync_folder(source.parent)


def delete(tree: FileTree, path: str, recursive: bool) -> None:
    """A folder with something in it only if `recursive`. Of a link only the link goes."""
    place = tree.changeable(path)
    with disk_errors(path):
        if place.is_symlink() or not place.is_dir():
            place.unlink()
        elif recursive:
            shutil.rmtree(place)
        else:
            place.rmdir()
        sync_folder(place.parent)
