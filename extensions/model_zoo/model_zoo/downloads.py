"""The downloads of this server: they belong to it, not to the browser that asked for them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from model_zoo.catalogue import Entry, Place
from model_zoo.transfer import Progress, Transfer
from sdwebui_api.errors import BadRequest, SdWebUIError
from sdwebui_api.storage.net_guard import NetGuard

log = logging.getLogger(__name__)

AT_ONCE = 2
LIVE = ("waiting", "downloading", "verifying")
SPEED_SECONDS = 2.0
"""What the speed is taken over."""


@dataclass
class Download:
    """One file, on its way or arrived."""

    entry: Entry
    progress: Progress
    task: asyncio.Task[None] | None = None
    _seen: tuple[float, int] = (0.0, 0)
    _speed: float = 0.0

    @property
    def live(self) -> bool:
        return self.progress.state in LIVE

    def speed(self) -> float:
        """Bytes per second, of late."""
        now, received = time.monotonic(), self.progress.received
        since, before = self._seen
        if self.progress.state != "downloading" or not since or received < before:
            self._seen, self._speed = (now, received), 0.0
        elif now - since >= SPEED_SECONDS:
            self._seen, self._speed = (now, received), (received - before) / (now - since)
        return self._speed


@dataclass
class Downloads:
    """Belongs to the event loop; every method is called there. By the path of the file that is to be."""

    guard: NetGuard
    _all: dict[Path, Download] = field(default_factory=dict)
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2 * AT_ONCE, "model-zoo"))
    """Their own: a large file's checksum must not hold up requests."""
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    def __post_init__(self) -> None:
        self._tls = httpx.create_ssl_context()

    def find(self, place: Place) -> Download | None:
        return self._all.get(place.target)

    def start(self, entry: Entry, place: Place, arrived: Callable[[], None]) -> Download:
        """arrived: called in a thread once the file lies in its place. Raises BadRequest (409): there is one."""
        known = self._all.get(place.target)
        if known is not None and known.live:
            return known
        if place.target.exists():
            raise BadRequest(f"There is a {entry.file} already", field="id", status=409)
        download = Download(entry, Progress(received=place.received, total=entry.size))
        transfer = Transfer(self.guard, self._tls, self._threads, entry, place, download.progress)
        self._all[place.target] = download
        download.task = asyncio.create_task(self._run(transfer, arrived))
        return download

    async def _run(self, transfer: Transfer, arrived: Callable[[], None]) -> None:
        progress = transfer.progress
        try:
            async with self._turns:
                await transfer.run()
            await asyncio.get_running_loop().run_in_executor(self._threads, arrived)
            progress.state = "done"
            log.info("%s has arrived", transfer.place.target)
        except asyncio.CancelledError:
            progress.state = "cancelled"
            raise
        except SdWebUIError as error:
            progress.state, progress.error = "failed", error.message
        except Exception:
            log.exception("%s", transfer.entry.url)
            progress.state, progress.error = "failed", "It failed for a reason that only the server's log tells"

    async def cancel(self, place: Place) -> None:
        """What has arrived stays. Returns once nothing is written any more."""
        download = self._all.get(place.target)
        if download is not None and download.task is not None and download.live:
            download.task.cancel()
            await asyncio.wait([download.task])

    def discard(self, place: Place) -> None:
        """What has arrived goes. Raises BadRequest (409) while it is being written."""
        download = self._all.get(place.target)
        if download is not None and download.live:
            raise BadRequest(f"{place.target.name} is being fetched", field="id", status=409)
        self._all.pop(place.target, None)
        place.part.unlink(missing_ok=True)
        place.note.unlink(missing_ok=True)


def shown(entry: Entry, place: Place, download: Download | None) -> Mapping[str, object]:
    """How an entry stands: `state`, `received`, `total`, `bytes_per_second`, `error`. Looks at the disk."""
    if download is not None and download.live:
        progress = download.progress
        return {
            "state": progress.state, "received": progress.received, "total": progress.total,
            "bytes_per_second": round(download.speed()), "error": "",
        }  # fmt: skip
    here = _size(place.target)
    if here is not None:
        other = entry.size is not None and here != entry.size
        return {"state": "other" if other else "installed", "received": here, "total": here, "bytes_per_second": 0,
                "error": ""}  # fmt: skip
    state = "partial" if place.received else "absent"
    failed = download is not None and download.progress.state == "failed"
    return {
        "state": state, "received": place.received, "total": entry.size, "bytes_per_second": 0,
        "error": download.progress.error if failed and download is not None else "",
    }  # fmt: skip


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
