"""Object storage as the rest of the house sees it: buckets of one small interface, retried until they confirm.

`oss.py` and `s3.py` put one try into words; what is tried again, and what is checked, stands here once.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sdwebui_api.errors import BadRequest, NotFound, NotStored, PayloadTooLarge

log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
LONGEST_KEY = 1023
"""Bytes, of OSS and S3."""
_CHUNK = 2**16


class Trouble(Exception):
    """One try failed. `passing`: another may succeed."""

    def __init__(self, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.message = message
        self.passing = passing


class Missing(Exception):
    """There is no such object."""


class TooLarge(Exception):
    """The object has more bytes than were asked for."""


class Bucket(Protocol):
    """One bucket of a store; every method is one try and may be called from any thread."""

    scheme: str
    """`oss` or `s3`: how addresses in it begin."""
    name: str

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Returns when the store has confirmed these very bytes. Raises Trouble."""
        ...

    def get(self, key: str, max_bytes: int) -> bytes:
        """Raises Trouble, Missing, TooLarge."""
        ...

    def public_url(self, key: str) -> str:
        """Where the object is found if the bucket may be read by all."""
        ...

    def signed_url(self, key: str, seconds: int) -> str:
        """Where anybody who knows the address may read it, for so long."""
        ...


@dataclass(frozen=True)
class Retries:
    """The pauses double from `first` to `longest` seconds: with these numbers 15.5 s in all."""

    attempts: int = 6
    first: float = 0.5
    longest: float = 8.0

    def run(self, work: Callable[[], T], what: str) -> T:
        """What `work` returns. Raises the last Trouble; other errors, and lasting trouble, at once."""
        pause = self.first
        for attempt in range(1, self.attempts + 1):
            try:
                return work()
            except Trouble as error:
                if not error.passing or attempt == self.attempts:
                    raise
                log.warning("%s: %s; again in %.1f s", what, error.message, pause)
            time.sleep(pause)
            pause = min(2 * pause, self.longest)
        raise AssertionError("Retries.attempts is at least 1")


class ObjectRoot:
    """A bucket below a prefix: the part of a store that requests may name."""

    def __init__(self, bucket: Bucket, prefix: str = "", retries: Retries | None = None) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self._retries = retries or Retries()

    @property
    def url(self) -> str:
        """`oss://bucket/prefix`."""
        return self.address(self.prefix)

    def address(self, key: str) -> str:
        return f"{self.bucket.scheme}://{self.bucket.name}/{key}".rstrip("/")

    def key_of(self, url: str, field: str) -> str:
        """The key that `oss://bucket/key` names, taken as it is spelled (`%` is no escape).

        Raises BadRequest (403, naming the root) for another bucket, a key outside of the prefix, or one with `..`.
        """
        bucket, _, key = url.strip().partition("://")[2].partition("/")
        parts = [part for part in key.split("/") if part]
        clean = "/".join(parts)
        inside = not self.prefix or clean == self.prefix or clean.startswith(f"{self.prefix}/")
        if bucket != self.bucket.name or not inside or not {".", ".."}.isdisjoint(parts):
            raise BadRequest(f"only what lies below {self.url} may be named", field=field, status=403)
        return self.checked(clean, field)

    @staticmethod
    def checked(key: str, field: str, room: int = 0) -> str:
        """`key`, fit for a store with `room` more bytes. Raises BadRequest (422)."""
        if re.search(r"[\x00-\x1f\x7f\\]", key):
            raise BadRequest("a name without control characters and backslashes is expected", field=field)
        if len(key.encode()) + room > LONGEST_KEY:
            raise BadRequest(f"the name is longer than the {LONGEST_KEY - room} bytes there is room for", field=field)
        return key

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Tried again until the store has it. Raises NotStored (502)."""
        address = self.address(key)
        try:
            self._retries.run(lambda: self.bucket.put(key, data, content_type), f"upload of {address}")
        except Trouble as error:
            raise NotStored(f"{address} could not be uploaded: {error.message}", status=502) from error

    def get(self, url: str, field: str, max_bytes: int) -> bytes:
        """Raises BadRequest, NotFound or PayloadTooLarge naming `field`."""
        key = self.key_of(url, field)
        try:
            return self._retries.run(lambda: self.bucket.get(key, max_bytes), f"download of {url}")
        except Missing:
            raise NotFound(f"there is no object {url}", field=field) from None
        except TooLarge:
            raise PayloadTooLarge(f"the object is larger than {max_bytes / 2**20:g} MB", field=field) from None
        except Trouble as error:
            raise BadRequest(f"{url} cannot be fetched: {error.message}", field=field) from error

    async def fetch(self, executor: Executor, url: str, field: str, max_bytes: int) -> bytes:
        """`get`, beside the event loop."""
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(executor, self.get, url, field, max_bytes)


def check_etag(etag: str | None, data: bytes, *, encrypted: bool) -> None:
    """An ETag is the MD5 of what arrived, but where the store encrypted it with a key of its customer's.

    Raises Trouble when it is that of other bytes.
    """
    found = (etag or "").strip('"').lower()
    if encrypted or not re.fullmatch(r"[0-9a-f]{32}", found):
        return
    if found != md5(data).hexdigest():
        raise Trouble("the store holds other bytes than were sent", passing=True)


def read_limited(read: Callable[[int], bytes], max_bytes: int, announced: int | None) -> bytes:
    """All of a stream. Raises TooLarge; Trouble when it ends before `announced` bytes."""
    if announced is not None and announced > max_bytes:
        raise TooLarge
    parts, size = [], 0
    while part := read(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise TooLarge
    if announced is not None and size != announced:
        raise Trouble(f"{size} of {announced} bytes arrived", passing=True)
    return b"".join(parts)


def md5(data: bytes) -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)


def passing_status(status: int) -> bool:
    """Whether an HTTP status may be another one in a moment: overload and the store's own faults."""
    return status >= 500 or status in (408, 429)
