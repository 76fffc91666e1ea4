"""Pictures that requests name by URL: fetched by the door, on its event loop, before any job is submitted.

http and https go through the guard of `net_guard`; other schemes (`oss://`) through fetchers that are handed in.
Whatever goes wrong is an error that names the request's field.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from sdwebui_api.config.flags import Flags
from sdwebui_api.errors import BadRequest, Busy, PayloadTooLarge
from sdwebui_api.storage.net_guard import AllowList, NetGuard, guarded_client

log = logging.getLogger(__name__)

Fetcher = Callable[[str, str, int], Awaitable[bytes]]
"""(URL, field, most bytes) → the file. Raises BadRequest, NotFound or PayloadTooLarge naming the field."""

MAX_LINKS = 128
"""In one request."""
MAX_DOWNLOADS = 64
"""At once, of the whole server."""
_PER_REQUEST = 8
_SCHEME = re.compile(r"\s*[a-z][a-z0-9+.-]{0,15}://", re.IGNORECASE)
# identity: what a small answer unpacks to cannot be known before it is unpacked.
_HEADERS = {"Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity"}
USER_AGENT = "sdwebui_api"


def is_link(text: object) -> bool:
    """Whether a picture's text is an address of any scheme; base64 and data URIs never hold `://`."""
    return isinstance(text, str) and _SCHEME.match(text) is not None


@dataclass(frozen=True)
class LinkLimits:
    """Of one picture, but for the last two."""

    max_bytes: int = 32 * 2**20
    seconds: float = 30.0
    redirects: int = 5
    request_bytes: int = 100 * 2**20
    """All pictures of one request together."""
    held_bytes: int = 2**30
    """All pictures of all requests that are not answered yet."""


class LinkFetcher:
    """Downloads for clients. One per server."""

    def __init__(
        self, guard: NetGuard, limits: LinkLimits | None = None, fetchers: Mapping[str, Fetcher] | None = None
    ) -> None:
        self.guard = guard
        self.limits = limits or LinkLimits()
        self._fetchers = dict(fetchers or {})
        self._tls = httpx.create_ssl_context()
        self._slots = asyncio.Semaphore(MAX_DOWNLOADS)
        self._held = 0

    def with_fetchers(self, fetchers: Mapping[str, Fetcher]) -> LinkFetcher:
        """For somebody who may read other parts of buckets."""
        return LinkFetcher(self.guard, self.limits, fetchers)

    @asynccontextmanager
    async def fetched(self, wanted: Mapping[str, str], user_agent: str = "") -> AsyncIterator[dict[str, bytes]]:
        """`wanted`: URL → field of the request; yields URL → file. Their memory counts until the block is left.

        Raises BadRequest (422; 403 for an address that is refused), PayloadTooLarge, Busy.
        """
        if len(wanted) > MAX_LINKS:
            field = list(wanted.values())[MAX_LINKS]
            raise BadRequest(f"{len(wanted)} pictures by URL, at most {MAX_LINKS} are fetched", field=field)
        account = _Account(self, {**_HEADERS, "User-Agent": user_agent or USER_AGENT})
        try:
            yield await self._fetch_all(wanted, account)
        finally:
            self._held -= account.taken

    async def _fetch_all(self, wanted: Mapping[str, str], account: _Account) -> dict[str, bytes]:
        """The first failure ends them all."""
        turns = asyncio.Semaphore(_PER_REQUEST)

        async def in_turn(url: str, field: str) -> bytes:
            async with turns:
                return await self._fetch(url, field, account)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = {url: group.create_task(in_turn(url, field)) for url, field in wanted.items()}
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return {url: task.result() for url, task in tasks.items()}

    async def _fetch(self, url: str, field: str, account: _Account) -> bytes:
        scheme = url.strip().partition(":")[0].lower()
        try:
            async with asyncio.timeout(self.limits.seconds), self._slots:
                if scheme in self._fetchers:
                    data = await self._fetchers[scheme](url.strip(), field, self.limits.max_bytes)
                    account.take(len(data), field)
                    return data
                return await self._download(url, field, account)
        except TimeoutError:
            raise BadRequest(f"the picture did not arrive within {self.limits.seconds:g} s", field=field) from None
        except (httpx.HTTPError, OSError, ValueError) as error:
            log.info("a picture cannot be fetched: %r", error)
            raise BadRequest(f"the picture cannot be fetched: {_reason(error)}", field=field) from None

    async def _download(self, url: str, field: str, account: _Account) -> bytes:
        target = self.guard.parse(url, field, ("http", "https", *self._fetchers))
        async with guarded_client(self.guard, field, self._tls, self.limits.seconds) as client:
            for _ in range(self.limits.redirects + 1):
                async with client.stream("GET", target, headers=account.headers) as response:
                    if not response.has_redirect_location:
                        return await self._body(response, field, account)
                    target = self._redirected(target, response, field)
        raise BadRequest(f"the address redirects more than {self.limits.redirects} times", field=field)

    def _redirected(self, url: httpx.URL, response: httpx.Response, field: str) -> httpx.URL:
        """Judged as if the client had sent it; but what it is the client does not learn."""
        try:
            return self.guard.parse(str(url.join(response.headers["location"])), field)
        except (httpx.InvalidURL, ValueError):
            raise BadRequest("the address redirects to something that is no address", field=field) from None
        except BadRequest as error:
            raise BadRequest(
                "the address redirects to one that is not fetched", field=field, status=error.status
            ) from None

    async def _body(self, response: httpx.Response, field: str, account: _Account) -> bytes:
        if response.status_code != 200:
            raise BadRequest(f"the picture's host answered {response.status_code}", field=field)
        if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            raise BadRequest("the picture's host sent it compressed, which was not asked for", field=field)
        announced = response.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > self.limits.max_bytes:
            raise self._too_large(field)
        parts, size = [], 0
        async for part in response.aiter_raw():
            size += len(part)
            if size > self.limits.max_bytes:
                raise self._too_large(field)
            account.take(len(part), field)
            parts.append(part)
        return b"".join(parts)

    def _too_large(self, field: str) -> PayloadTooLarge:
        megabytes = self.limits.max_bytes / 2**20
        return PayloadTooLarge(f"the picture is larger than {megabytes:g} MB (--image-link-max-mb)", field=field)

    def _hold(self, size: int) -> None:
        if self._held + size > max(self.limits.held_bytes, self.limits.request_bytes):
            raise Busy("The pictures being fetched already hold too much memory", retry_after=5.0)
        self._held += size


@dataclass
class _Account:
    """What one request fetches with, and the bytes it holds."""

    fetcher: LinkFetcher
    headers: Mapping[str, str]
    taken: int = 0

    def take(self, size: int, field: str) -> None:
        """Raises PayloadTooLarge, Busy."""
        limits = self.fetcher.limits
        most = max(limits.request_bytes, limits.max_bytes)
        if self.taken + size > most:
            raise PayloadTooLarge(f"the request's pictures are larger than {most / 2**20:g} MB together", field=field)
        self.fetcher._hold(size)
        self.taken += size


def _reason(error: Exception) -> str:
    """In words of ours: what the host said may be meant for other eyes than the client's."""
    if isinstance(error, httpx.ConnectError):
        return str(error)[:200] or "no connection"
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return "the host's answer was broken off or no HTTP"


def link_fetcher(flags: Flags, fetchers: Mapping[str, Fetcher] | None = None) -> LinkFetcher:
    """As the command line says. Raises BadRequest for an `--image-link-allow` that cannot be meant."""
    limits = LinkLimits(max_bytes=int(flags.image_link_max_mb * 2**20), seconds=flags.image_link_timeout)
    return LinkFetcher(NetGuard(AllowList(flags.image_link_allow)), limits, fetchers)
