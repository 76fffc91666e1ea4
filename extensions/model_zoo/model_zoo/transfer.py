"""One file on its way from its host: in pieces that survive the connection and the server, checked, then published.

What has arrived lies beside the target under a name of its own, with a note of where it came from. A later transfer
goes on there when it is the same file still: the host says so (`If-Range`), or the checksum will.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import shutil
import ssl
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, TypeVar

import httpx

from model_zoo.catalogue import Entry, Place
from sdwebui_api.errors import BadRequest, NotStored, PayloadTooLarge, Unavailable
from sdwebui_api.storage.links import USER_AGENT
from sdwebui_api.storage.local import make_folder, publish, sync_folder, write_file
from sdwebui_api.storage.net_guard import NetGuard, guarded_client

log = logging.getLogger(__name__)

T = TypeVar("T")
State = Literal["waiting", "downloading", "verifying", "done", "failed", "cancelled"]

READ_SECONDS = 60.0
"""Without a byte, the connection counts as broken."""
REDIRECTS = 5
RETRIES = 5
"""Broken connections in a row without a new byte."""
PAUSE_SECONDS = 1.0
"""After the first of them; twice as long after each further one."""
HOLD_BYTES = 2**20
HASH_BYTES = 2**24
SPARE_BYTES = 2**28
"""Room on the disk that downloads leave to the server."""
MOST_BYTES = 100 * 2**30
PAGES = (b"<!doctype", b"<html", b"<?xml")
"""How what is no model begins: hosts answer with a page, and 200, where a log-in or a click is missing."""
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass
class Progress:
    """Written by the transfer, on the event loop; read by whoever looks."""

    state: State = "waiting"
    received: int = 0
    total: int | None = None
    error: str = ""


@dataclass
class Transfer:
    """`run` it once, on the event loop; what blocks is done in `threads`."""

    guard: NetGuard
    tls: ssl.SSLContext
    threads: Executor
    entry: Entry
    place: Place
    progress: Progress

    async def run(self) -> None:
        """Raises BadRequest (refused by guard or host, wrong size or checksum), Unavailable, NotStored."""
        self.progress.state = "downloading"
        self.progress.total = self.entry.size
        try:
            await self._off(make_folder, self.place.target.parent)
            await self._fetch()
            self.progress.state = "verifying"
            await self._verify()
            await self._off(self._publish)
        except (OSError, ValueError) as error:
            log.warning("%s: %s", self.place.target, error)
            raise NotStored(f"{self.place.target.name} cannot be written: {_reason(error)}") from error

    async def _off(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *args)

    # -- from the host ---------------------------------------------------------------------------------------------

    async def _fetch(self) -> None:
        """Until all is there. A broken connection is tried again, one that never stood is not."""
        failures = 0
        while True:
            before = self.progress.received
            try:
                return await self._attempt()
            except httpx.HTTPError as error:
                log.info("%s: %r", self.entry.url, error)
                failures = 1 if self.progress.received > before else failures + 1
                if failures > RETRIES or (isinstance(error, httpx.ConnectError) and not self.progress.received):
                    raise Unavailable(self._unreachable(error)) from None
            await asyncio.sleep(PAUSE_SECONDS * 2.0 ** (failures - 1))

    async def _attempt(self) -> None:
        headers, have = await self._off(self._beginning)
        self.progress.received = have
        if have and have == self.entry.size:
            return
        url = self.guard.parse(self.entry.url, "url")
        async with guarded_client(self.guard, "url", self.tls, READ_SECONDS) as client:
            for _ in range(REDIRECTS + 1):
                async with client.stream("GET", url, headers=headers) as response:
                    if not response.has_redirect_location:
                        return await self._receive(response, have)
                    url = self._redirected(url, response)
        raise BadRequest(f"{url.host} redirects more than {REDIRECTS} times", field="url", status=502)

    def _beginning(self) -> tuple[dict[str, str], int]:
        """The headers to ask with, and how much need not be sent again."""
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        note, have = self._noted(), self.place.received
        mark = str(note.get("mark") or "")
        if not have or note.get("url") != self.entry.url or not (mark or self.entry.sha256):
            return headers, 0
        headers["Range"] = f"bytes={have}-"
        # Hosts behind one address may mark the same file differently; the checksum cannot be mistaken.
        return headers | ({} if self.entry.sha256 else {"If-Range": mark}), have

    def _noted(self) -> dict[str, Any]:
        try:
            note = json.loads(self.place.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}

    def _redirected(self, url: httpx.URL, response: httpx.Response) -> httpx.URL:
        """Judged as the first address was. A secure one must stay secure."""
        try:
            target = self.guard.parse(str(url.join(response.headers["location"])), "url")
        except (httpx.InvalidURL, ValueError):
            raise BadRequest(f"{url.host} redirects to something that is no address", field="url", status=502) from None
        if url.scheme == "https" and target.scheme != "https":
            raise BadRequest(f"{url.host} redirects to an address without encryption", field="url", status=502)
        return target

    async def _receive(self, response: httpx.Response, have: int) -> None:
        if response.status_code == 416:
            if response.headers.get("content-range") == f"bytes */{have}":
                self.progress.total = have
                return  # all of it had arrived
            await self._off(self._forget)
            self.progress.received = 0
            raise httpx.ReadError("the part does not fit what the host has now")
        have = self._resumed_at(response, have)
        total = self._total(response, have)
        self.progress.received, self.progress.total = have, total
        await self._off(self._check_room, (total or 0) - have)
        await self._off(self._write_note, response)
        file = await self._off(self._open, have)
        try:
            await self._copy(response, file)
        finally:
            await asyncio.shield(self._off(_close, file))
        if total is not None and self.progress.received != total:
            raise httpx.ReadError("the host ended before the file did")
        self.progress.total = self.progress.received

    def _resumed_at(self, response: httpx.Response, have: int) -> int:
        """Where the body of `response` begins in the file. Raises BadRequest for an answer that is no file."""
        host = response.url.host
        if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            raise BadRequest(f"{host} sent the file compressed, which was not asked for", field="url", status=502)
        if response.status_code == 200:
            return 0
        begins = _RANGE.match(response.headers.get("content-range", ""))
        if response.status_code == 206 and begins and int(begins[1]) == have:
            return have
        raise BadRequest(f"{host} answered {response.status_code}", field="url", status=502)

    def _total(self, response: httpx.Response, have: int) -> int | None:
        """Of the whole file, as the host announces it. Raises BadRequest where the catalogue says otherwise."""
        length = response.headers.get("content-length", "")
        total = have + int(length) if length.isdecimal() else self.entry.size
        if total is not None and total > MOST_BYTES:
            raise PayloadTooLarge(f"A file may have {MOST_BYTES // 2**30} GiB at most", field="url")
        if self.entry.size is not None and total != self.entry.size:
            raise BadRequest(
                f"{response.url.host} offers {total} bytes where the catalogue says {self.entry.size}: another file",
                field="url",
                status=502,
            )
        return total

    def _check_room(self, missing: int) -> None:
        free = shutil.disk_usage(self.place.target.parent).free
        if missing + SPARE_BYTES > free:
            raise NotStored(f"{missing} bytes are missing, and the disk has {free} left")

    def _write_note(self, response: httpx.Response) -> None:
        """A weak mark promises too little to go on with (RFC 9110, 13.1.5)."""
        mark = response.headers.get("etag", "")
        if not mark or mark.startswith("W/"):
            mark = response.headers.get("last-modified", "")
        note = {"url": self.entry.url, "mark": mark, "total": self.progress.total}
        write_file(self.place.note, json.dumps(note, indent=1).encode())

    def _open(self, have: int) -> BinaryIO:
        file = self.place.part.open("r+b" if have else "wb")
        file.truncate(have)
        file.seek(have)
        return file

    async def _copy(self, response: httpx.Response, file: BinaryIO) -> None:
        held = bytearray()
        async for piece in response.aiter_raw():
            held += piece
            if len(held) >= HOLD_BYTES:
                await self._keep(file, held)
                held = bytearray()
        await self._keep(file, held)

    async def _keep(self, file: BinaryIO, data: bytearray) -> None:
        most = self.progress.total if self.progress.total is not None else MOST_BYTES
        if self.progress.received + len(data) > most:
            raise BadRequest(f"more than {most} bytes came", field="url", status=502)
        if self.progress.total is None:
            await self._off(self._check_room, len(data))
        await self._off(file.write, data)
        self.progress.received += len(data)

    def _unreachable(self, error: httpx.HTTPError) -> str:
        host = httpx.URL(self.entry.url).host
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return (
                f"No connection to {host}: this server is offline, or may not reach it. "
                f"Fetch the file elsewhere and put it into {self.place.target.parent}"
            )
        return f"The connection to {host} broke again and again; what has arrived is kept"

    # -- when all is there -----------------------------------------------------------------------------------------

    async def _verify(self) -> None:
        """Raises BadRequest; a file with another checksum, or a web page in its place, is thrown away."""
        with self.place.part.open("rb") as file:
            first = file.read(512).lstrip().lower()
        if first.startswith(PAGES):
            await self._off(self._forget)
            host = httpx.URL(self.entry.url).host
            raise BadRequest(f"{host} sent a web page in place of the file: perhaps it asks for a log-in", field="url")
        if self.entry.sha256 is None:
            return
        digest = hashlib.sha256()
        with self.place.part.open("rb") as file:
            while block := await self._off(file.read, HASH_BYTES):
                await self._off(digest.update, block)
        if digest.hexdigest() != self.entry.sha256:
            await self._off(self._forget)
            raise BadRequest(
                "The file has another SHA-256 than the catalogue says, and was thrown away", field="sha256"
            )

    def _publish(self) -> None:
        """Under its name, which must be free still."""
        with self.place.part.open("rb") as file:
            os.fsync(file.fileno())
        if not publish(self.place.part, self.place.target):
            raise BadRequest(f"There is a {self.entry.file} already", field="id", status=409)
        self._forget()
        sync_folder(self.place.target.parent)

    def _forget(self) -> None:
        self.place.part.unlink(missing_ok=True)
        self.place.note.unlink(missing_ok=True)


def _close(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
