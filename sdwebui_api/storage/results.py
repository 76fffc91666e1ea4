"""Results by address: one request's files are written beside the event loop, several at once."""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from sdwebui_api.errors import NotStored
from sdwebui_api.storage.links import Fetcher
from sdwebui_api.storage.roots import FolderTarget, SaveRoots, Target

log = logging.getLogger(__name__)

DISK_WRITERS = 4
UPLOADS = 8
DOWNLOADS = 8
"""Files on their way at once, of all requests: they wait for disks and networks, not for the processor. A bucket that
hangs holds up neither disks nor start images."""


@dataclass(frozen=True)
class ResultFile:
    path: str
    """Below `save_dir`: `txt2img-images/2024-06-26/093536-<uuid4>-3257304074.png`."""
    data: bytes
    content_type: str


class _Debts:
    """How many requests are owed their results."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._owed = 0

    def change(self, by: int) -> None:
        with self._changed:
            self._owed += by
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._owed == 0, timeout)


class ResultStore:
    """Writes results where their requests say. One per server."""

    def __init__(self, roots: SaveRoots) -> None:
        self.roots = roots
        self._debts = _Debts()
        self._disk = ThreadPoolExecutor(DISK_WRITERS, "results")
        self._uploads = ThreadPoolExecutor(UPLOADS, "upload")
        self._downloads = ThreadPoolExecutor(DOWNLOADS, "download")

    def with_roots(self, roots: SaveRoots) -> ResultStore:
        """The same writers for somebody who may name other places."""
        other = copy.copy(self)
        other.roots = roots
        return other

    @contextmanager
    def owed(self) -> Iterator[None]:
        """Around a request from its admission until its results are written."""
        self._debts.change(1)
        try:
            yield
        finally:
            self._debts.change(-1)

    def settle(self, timeout: float) -> bool:
        """Waits until no request is owed its results: jobs end before their pictures are written. Blocks."""
        return self._debts.wait(timeout)

    async def write(self, target: Target, files: Sequence[ResultFile]) -> list[str]:
        """The address of each file, all of them stored for good.

        Raises NotStored when one could not be; what a bucket did not take lies in the data directory then, and the
        error says where.
        """
        outcomes = await self._write_all(target, files)
        addresses = [outcome for outcome in outcomes if isinstance(outcome, str)]
        if len(addresses) == len(files):
            return addresses
        failure = next(outcome for outcome in outcomes if isinstance(outcome, BaseException))
        if not isinstance(failure, NotStored) or isinstance(target, FolderTarget):
            raise failure
        raise await self._kept_here(failure, files)

    async def _write_all(self, target: Target, files: Sequence[ResultFile]) -> list[str | BaseException]:
        loop = asyncio.get_running_loop()
        writers = self._disk if isinstance(target, FolderTarget) else self._uploads
        writes = [
            loop.run_in_executor(writers, target.write, file.path, file.data, file.content_type) for file in files
        ]
        return await asyncio.gather(*writes, return_exceptions=True)

    async def _kept_here(self, failure: NotStored, files: Sequence[ResultFile]) -> NotStored:
        """All of them, so that whoever looks finds the request's pictures together."""
        log.error("%s; its pictures are kept in the data directory", failure.message)
        kept = await self._write_all(self.roots.kept(), files)
        if lost := next((outcome for outcome in kept if isinstance(outcome, BaseException)), None):
            return NotStored(f"{failure.message}; nor could they be kept: {lost}", status=failure.status)
        return NotStored(f"{failure.message}; the pictures are kept as {', '.join(map(str, kept))}", status=502)

    def fetchers(self) -> Mapping[str, Fetcher]:
        """What reads `oss://` and `s3://` addresses of pictures, by scheme."""
        return {scheme: partial(root.fetch, self._downloads) for scheme, root in (self.roots.objects or {}).items()}

    def close(self) -> None:
        for pool in (self._disk, self._uploads, self._downloads):
            pool.shutdown(wait=False)
