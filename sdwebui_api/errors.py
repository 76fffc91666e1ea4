"""The error family. Rooms raise these; `api/errors.py` alone turns them into HTTP answers.

SdWebUIError (500)
├── BadRequest (400, or 422 when a named field has a wrong value)
│   └── PayloadTooLarge (413)
├── Unauthorized (401)
├── NotFound (404)
├── UnusableModel (422)      a model file that exists but cannot be used
├── Diverged (422)           sampling or decoding ended in numbers that are no picture
├── Busy (429)               the queue is full; `retry_after` seconds
├── Unavailable (503)        cannot serve yet, or shutting down
├── OutOfMemory (507)        the job failed for lack of memory; the server lives
├── NotStored (507; 502)     what was made exists, but neither disk nor bucket (502) took it
└── Cancelled (499)          the job was cancelled before it had a result
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Sequence


class SdWebUIError(Exception):
    """Base of everything this program raises on purpose.

    `field` names the part of the request at fault, dotted (`override_settings.sd_vae`), or None.
    `choices` are the accepted values, when there is a finite list of them.
    """

    status = 500
    name = ""
    """What answers call the kind of error; without one it is the class's."""

    def __init__(self, message: str, *, field: str | None = None, choices: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.choices: Sequence[str] = tuple(choices)


class BadRequest(SdWebUIError):
    """The request cannot be carried out as it stands. With `field`, status 422; `status` overrides."""

    status = 400

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        choices: Iterable[str] = (),
        status: int | None = None,
    ) -> None:
        super().__init__(message, field=field, choices=choices)
        self.status = status or (422 if field else 400)


class PayloadTooLarge(BadRequest):
    """An upload, image or prompt is larger than the server accepts."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message, field=field, status=413)


class Unauthorized(SdWebUIError):
    status = 401


class NotFound(SdWebUIError):
    status = 404


class UnusableModel(SdWebUIError):
    status = 422


class Diverged(SdWebUIError):
    """The request's own numbers (guidance, noise, weights) overflow; the server is well."""

    status = 422


class Busy(SdWebUIError):
    status = 429

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(SdWebUIError):
    status = 503


class OutOfMemory(SdWebUIError):
    status = 507
    name = "OutOfMemoryError"
    """torch's, which A1111 answers with: there are clients that unload the checkpoint when they read it."""


class NotStored(SdWebUIError):
    """What was made could not be written where it belongs: a full disk, or (`status=502`) a store that fails."""

    status = 507

    def __init__(self, message: str, *, status: int = 507) -> None:
        super().__init__(message)
        self.status = status


class Cancelled(SdWebUIError):
    status = 499


_NOT_OURS = ": this server may not write there"
_REASONS = {
    errno.ENOSPC: ": the disk is full",
    errno.EDQUOT: ": the disk quota is used up",
    errno.EROFS: ": the disk is read-only",
    errno.EACCES: _NOT_OURS,
    errno.EPERM: _NOT_OURS,
}


def not_stored(name: str, folder: object, error: OSError) -> NotStored:
    """The answer where the file `name` could not be written into `folder`."""
    reason = _REASONS.get(error.errno or 0, f": {error.strerror or error}")
    return NotStored(f"{name} could not be saved in {folder}{reason}")


def nearest(name: str, names: Iterable[str], count: int = 5) -> list[str]:
    """The `count` names most like `name`, best first, letter case ignored; all of them when few."""
    originals = {candidate.lower(): candidate for candidate in names}
    if len(originals) <= count:
        return list(originals.values())
    close = difflib.get_close_matches(name.lower(), originals, n=count, cutoff=0.3)
    return [originals[key] for key in close]
