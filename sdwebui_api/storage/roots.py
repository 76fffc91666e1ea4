"""`save_dir` becomes a target: the folder or the part of a bucket where one request's results are written.

What may be named: the data directory, the folders of `--allow-save-dir`, the bucket below its prefix, and the folder
that `--oss-mount` says stands for it. Everything else is refused with 403, and the answer lists what may be named.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from sdwebui_api.config.flags import Flags
from sdwebui_api.errors import BadRequest, NotStored
from sdwebui_api.storage.local import LONGEST_FOLDER, LONGEST_NAME, OUTPUT_FOLDERS, write_file
from sdwebui_api.storage.objects import ObjectRoot

UrlStyle = Literal["mount", "oss", "public", "signed"]

ROOM = 160
"""Bytes that folders and file name of a result take behind `save_dir`."""
RESULT_FOLDERS = ("txt2img-images", "txt2img-grids", "img2img-images", "img2img-grids", "controlnet_mask")
"""Behind `save_dir`. Any of them may be a link that was put there before the request came."""
_SCHEME = re.compile(r"([a-z0-9]+)://", re.IGNORECASE)


class Target(Protocol):
    """Where one request's results go."""

    def write(self, path: str, data: bytes, content_type: str) -> str:
        """Store `data` under `path` (`txt2img-images/2024-06-26/….png`) and return its address for the answer.

        It is stored for good when this returns. Takes time. Raises NotStored.
        """
        ...


@dataclass(frozen=True)
class FolderTarget:
    folder: Path
    """As it is answered: absolute, links in it as they are spelled."""
    allowed: tuple[Path, ...]
    """Where it may really lie, links resolved."""

    def write(self, path: str, data: bytes, content_type: str) -> str:
        file = self.folder / path
        # Again: the folder may have become a link since the request was admitted.
        if not _inside(Path(os.path.realpath(file.parent)), self.allowed):
            raise NotStored(f"{self.folder} leads out of the folders that results may be written to")
        try:
            return str(write_file(file, data))
        except OSError as error:
            raise NotStored(f"{file} could not be written: {error.strerror or error}") from error


@dataclass(frozen=True)
class ObjectTarget:
    root: ObjectRoot
    key: str
    """Of the folder."""
    style: UrlStyle
    """`oss` is the store's own form, `s3://` for S3."""
    mount: Path | None
    """The folder that stands for the root."""
    expires: int
    """Seconds that signed addresses are good for."""

    def write(self, path: str, data: bytes, content_type: str) -> str:
        key = "/".join(filter(None, (self.key, path)))
        self.root.put(key, data, content_type)
        return self._address(key)

    def _address(self, key: str) -> str:
        if self.style == "signed":
            return self.root.bucket.signed_url(key, self.expires)
        if self.style == "public":
            return self.root.bucket.public_url(key)
        if self.style == "mount" and self.mount is not None:
            return str(self.mount / key.removeprefix(self.root.prefix).lstrip("/"))
        return self.root.address(key)


@dataclass(frozen=True)
class SaveRoots:
    """Everything that `save_dir` may name on this server."""

    data_dir: Path
    more: tuple[Path, ...] = ()
    """`--allow-save-dir`"""
    objects: Mapping[str, ObjectRoot] | None = None
    """By scheme."""
    mount: Path | None = None
    """`--oss-mount`"""
    style: UrlStyle | None = None
    """None: addresses are spelled as `save_dir` is."""
    expires: int = 86_400

    def of_user(self, home: Path) -> SaveRoots:
        """What one user may name: the own folder in place of the data directory, and in buckets the part that is
        called as that folder lies in it."""
        below = home.relative_to(self.data_dir).as_posix()
        objects = {
            scheme: ObjectRoot(root.bucket, "/".join(filter(None, (root.prefix, below))))
            for scheme, root in (self.objects or {}).items()
        }
        users = Path(os.path.realpath(home.parent))
        more = tuple(folder for folder in self.more if not _inside(users, [Path(os.path.realpath(folder))]))
        mount = self.mount / below if self.mount else None
        return replace(self, data_dir=home, more=more, objects=objects, mount=mount)

    def target(self, save_dir: str, field: str) -> Target:
        """Raises BadRequest: 403 outside of the roots, 422 for what can be no folder."""
        spelled = save_dir.strip()
        if re.search(r"[,\x00-\x1f\x7f]", spelled):
            # Clients split image_url at its commas.
            raise BadRequest("a folder without commas and control characters is expected", field=field)
        if match := _SCHEME.match(spelled):
            return self._object(match[1].lower(), spelled, field)
        if ".." in re.split(r"[\\/]", spelled):
            raise self._refused(field)
        folder = Path(os.path.normpath(self.data_dir / spelled))
        if self.mount is not None and _inside(folder, [self.mount]):
            return self._mounted(folder, field)
        return self._folder(folder, field)

    def default(self) -> Target:
        """For queued requests that name none: the bucket if there is one (workers may be many machines), else
        `outputs` of the data directory."""
        for root in (self.objects or {}).values():
            key = "/".join(filter(None, (root.prefix, OUTPUT_FOLDERS[0])))
            return ObjectTarget(root, key, self.style or "oss", self.mount, self.expires)
        return self.kept()

    def kept(self) -> FolderTarget:
        """`outputs` of the data directory: also where results stay that a bucket does not take."""
        return FolderTarget(self.data_dir / OUTPUT_FOLDERS[0], self._real())

    def named(self) -> list[str]:
        """The roots as clients name them."""
        folders = [self.data_dir, *self.more, *([self.mount] if self.mount else [])]
        return [*map(str, folders), *(root.url for root in (self.objects or {}).values())]

    def _object(self, scheme: str, url: str, field: str) -> ObjectTarget:
        root = (self.objects or {}).get(scheme)
        if root is None:
            raise self._refused(field)
        key = root.checked(root.key_of(url, field), field, ROOM)
        return ObjectTarget(root, key, self.style or "oss", self.mount, self.expires)

    def _mounted(self, folder: Path, field: str) -> ObjectTarget:
        assert self.mount is not None and self.objects
        root = self.objects["oss"]
        below = folder.relative_to(self.mount).as_posix()
        key = "/".join(part for part in (root.prefix, below) if part not in ("", "."))
        return ObjectTarget(root, root.checked(key, field, ROOM), self.style or "mount", self.mount, self.expires)

    def _folder(self, folder: Path, field: str) -> FolderTarget:
        if len(os.fsencode(folder)) + ROOM > LONGEST_FOLDER or any(
            len(os.fsencode(part)) > LONGEST_NAME for part in folder.parts
        ):
            raise BadRequest("the path of the folder is too long", field=field)
        allowed = self._real()
        if not all(_inside(Path(os.path.realpath(folder / inner)), allowed) for inner in ("", *RESULT_FOLDERS)):
            raise self._refused(field)
        _check_usable(folder, field)
        return FolderTarget(folder, allowed)

    def _real(self) -> tuple[Path, ...]:
        # An outputs folder that is itself a link (to a larger disk, say) was put there by the owner of the machine.
        outputs = [self.data_dir / name for name in OUTPUT_FOLDERS]
        return tuple(Path(os.path.realpath(folder)) for folder in (self.data_dir, *outputs, *self.more))

    def _refused(self, field: str) -> BadRequest:
        roots = self.named()
        text = f"results are only written below {' or '.join(roots)}"
        return BadRequest(text, field=field, choices=roots, status=403)


def save_roots(flags: Flags, data_dir: Path) -> SaveRoots:
    """As the command line says. Raises BadRequest for flags that do not fit together or lack credentials."""
    objects: dict[str, ObjectRoot] = {}
    if flags.oss_bucket:
        from sdwebui_api.storage.oss import OssBucket

        if not flags.oss_endpoint:
            raise BadRequest("--oss-bucket needs --oss-endpoint (such as https://oss-cn-hangzhou.aliyuncs.com)")
        objects["oss"] = ObjectRoot(OssBucket(flags.oss_endpoint, flags.oss_bucket), flags.oss_prefix)
    if flags.s3_bucket:
        from sdwebui_api.storage.s3 import S3Bucket

        objects["s3"] = ObjectRoot(S3Bucket(flags.s3_endpoint, flags.s3_bucket), flags.s3_prefix)
    mount = _absolute(flags.oss_mount) if flags.oss_mount else None
    if mount and "oss" not in objects:
        raise BadRequest("--oss-mount needs --oss-bucket, whose place it takes")
    style: UrlStyle | None = flags.oss_url_style  # type: ignore[assignment]  # argparse has checked the choices
    if style == "mount" and mount is None:
        raise BadRequest("--oss-url-style mount needs --oss-mount")
    more = tuple(_absolute(folder) for folder in flags.allow_save_dir)
    return SaveRoots(data_dir.absolute(), more, objects, mount, style, flags.oss_url_expires)


def _absolute(folder: str) -> Path:
    return Path(os.path.abspath(Path(folder).expanduser()))


def _inside(folder: Path, roots: Sequence[Path]) -> bool:
    return any(folder == root or root in folder.parents for root in roots)


def _check_usable(folder: Path, field: str) -> None:
    """Before any picture is made: what there is of the folder is a folder, and may be written to."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        raise BadRequest(f"{existing} is a file, not a folder", field=field)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise BadRequest(f"this server may not write to {existing}", field=field, status=403)
