"""Which addresses the server may call for a client, and a transport that calls no other.

A client names a URL; the server stands inside a network the client cannot see. So the address is judged where it can
no longer change: a name is resolved once, every address it has is checked, and the connection is made to a checked
address, not to the name again (a second look-up is what DNS rebinding waits for). TLS still verifies the name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpcore
import httpx

from sdwebui_api.errors import BadRequest

log = logging.getLogger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) → its addresses, as text. Raises OSError."""

MAX_URL_CHARACTERS = 8192
CHECK_SECONDS = 10.0
RESOLVER_THREADS = 16
"""Looking up a name blocks; a slow name server must not hold up the rest of the server's threads."""

_SPECIAL: dict[str, tuple[str, ...]] = {
    "a cloud's metadata service": ("169.254.169.254/32", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),
    "loopback": ("127.0.0.0/8", "0.0.0.0/8"),
    "link-local": ("169.254.0.0/16",),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
    "multicast": ("224.0.0.0/4",),
    "reserved": (
        "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "240.0.0.0/4", "2001::/23", "2001:db8::/32", "3fff::/20",
    ),
    "a tunnel": ("2002::/16",),
}  # fmt: skip
"""Kind → networks, after IANA's registries of special-purpose addresses; the first that holds the address names it.
168.63.129.16 is Azure's, 100.100.100.200 Alibaba Cloud's, 192.0.0.192 Oracle's."""
_SPECIAL_NETWORKS = tuple(
    (kind, tuple(ipaddress.ip_network(text) for text in networks)) for kind, networks in _SPECIAL.items()
)
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP_IDENTIFIERS = (0x00005EFE, 0x02005EFE)


def address_kind(address: Address) -> str:
    """Empty for an address of the public internet; else what it is, in words."""
    address = embedded(address)
    for kind, networks in _SPECIAL_NETWORKS:
        if any(address in network for network in networks):
            return kind
    if isinstance(address, ipaddress.IPv6Address):
        return _ipv6_kind(address)
    return ""


def _ipv6_kind(address: ipaddress.IPv6Address) -> str:
    """Only 2000::/3 is in public use; everything else is loopback, local or transition."""
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP_IDENTIFIERS:
        return "a tunnel"
    if address in _GLOBAL_IPV6:
        return ""
    if address.is_loopback or address.is_unspecified:
        return "loopback"
    if address.is_link_local:
        return "link-local"
    return "multicast" if address.is_multicast else "private"


def embedded(address: Address) -> Address:
    """The IPv4 address that an IPv4-mapped or NAT64 address stands for; any other as it is."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


class AllowList:
    """`--image-link-allow`: hosts, `.suffixes` (every name below), addresses and CIDRs that are reached all the same.

    Raises BadRequest for an entry that is none of them.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._hosts: set[str] = set()
        self._suffixes: tuple[str, ...] = ()
        self._networks: tuple[Network, ...] = ()
        for entry in entries:
            self._add(entry.strip())

    def _add(self, entry: str) -> None:
        try:
            self._networks += (ipaddress.ip_network(entry.strip("[]"), strict=False),)
            return
        except ValueError:
            name = _ascii_name(entry.removeprefix("."))
        if name is None:
            raise BadRequest(f"--image-link-allow {entry}: expected a host, a .suffix, an address or a CIDR")
        if entry.startswith("."):
            self._suffixes += (f".{name}",)
        else:
            self._hosts.add(name)

    def host(self, name: str) -> bool:
        """Whether the name is trusted, whatever it resolves to."""
        name = name.lower().removesuffix(".")
        return name in self._hosts or name.endswith(self._suffixes)

    def address(self, address: Address) -> bool:
        return any(candidate in network for candidate in {address, embedded(address)} for network in self._networks)


def _ascii_name(text: str) -> str | None:
    """A host name in the form it is compared in; None when `text` is more or less than one."""
    try:
        name = httpx.URL(f"http://{text}/").raw_host.decode("ascii").removesuffix(".")
    except (httpx.InvalidURL, UnicodeError):
        return None
    plain = all(part and part.replace("-", "").replace("_", "").isalnum() for part in name.split("."))
    return name if plain and not set(text) & set("/:@?#\\") else None


class Resolve:
    """The system's name resolution, on threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, "resolve")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        import socket

        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(row[4][0]) for row in rows))


class NetGuard:
    """Judges URLs and addresses for one server."""

    def __init__(self, allow: AllowList | None = None, resolver: Resolver | None = None) -> None:
        self.allow = allow or AllowList()
        self._resolve: Resolver = resolver or Resolve()

    def parse(self, url: str, field: str, schemes: Sequence[str] = ("http", "https")) -> httpx.URL:
        """`url`, taken apart. Raises BadRequest: 422 for what is no such URL, 403 for an address that is refused."""
        if len(url) > MAX_URL_CHARACTERS:
            raise BadRequest(f"the address is longer than {MAX_URL_CHARACTERS} characters", field=field)
        try:
            parsed = httpx.URL(url.strip())
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            raise BadRequest(f"not a usable address: {str(error)[:200]}", field=field) from None
        if parsed.scheme not in schemes:
            accepted = [f"{scheme}://" for scheme in schemes]
            raise BadRequest(f"expected an address that begins with {' or '.join(accepted)}", field=field)
        if parsed.userinfo:
            raise BadRequest("an address with a user name or password is not fetched", field=field)
        if not parsed.raw_host or not 0 < (parsed.port or 80) < 65536:
            raise BadRequest("the address has no usable host or port", field=field)
        self._check_literal(parsed, field)
        return parsed.copy_with(fragment=None)

    async def check(self, url: object, field: str) -> None:
        """Whether `url` may be called, as far as that can be said now: a name that is not known, or not within
        `CHECK_SECONDS`, passes. Raises BadRequest as `parse` and `addresses`."""
        if not isinstance(url, str):
            raise BadRequest("expected an address that begins with http:// or https://", field=field)
        parsed = self.parse(url, field)
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self.addresses(parsed.raw_host.decode("ascii"), parsed.port or 443, field)
        except OSError as error:
            log.info("%s cannot be looked up now: %s", parsed.host.encode("unicode_escape").decode(), error)

    def _check_literal(self, url: httpx.URL, field: str) -> None:
        host = url.raw_host.decode("ascii")
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return
        self._check(host, [address], field)

    async def addresses(self, host: str, port: int, field: str) -> list[str]:
        """Every address of `host`, all of them permitted. Raises BadRequest (403) when one is not, OSError."""
        try:
            found = [ipaddress.ip_address(text) for text in await self._resolve(host, port)]
        except (UnicodeError, ValueError) as error:
            raise OSError(f"{host!r} is no name: {error}") from None
        if not found:
            raise OSError(f"{host!r} has no address")
        self._check(host, found, field)
        return [str(address) for address in found]

    def _check(self, host: str, addresses: Sequence[Address], field: str) -> None:
        """One refused address refuses the name: whoever mixes them hopes that the other one is taken.

        The client is not told the address: it may be the first thing to learn about an internal network.
        """
        if self.allow.host(host):
            return
        for address in addresses:
            kind = address_kind(address)
            if kind and not self.allow.address(address):
                log.warning("%s is not called: %s is %s", host.encode("unicode_escape").decode(), address, kind)
                raise BadRequest(
                    f"the host is not reached from here: its address is {kind} "
                    "(--image-link-allow permits internal hosts)",
                    field=field,
                    status=403,
                )


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that `guard` has checked, and only to those. `field`: what a refusal names."""

    def __init__(self, guard: NetGuard, field: str, inner: httpcore.AsyncNetworkBackend | None = None) -> None:
        self._guard = guard
        self._field = field
        self._inner = inner or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._guard.addresses(host, port, self._field)
        except OSError as error:
            raise httpcore.ConnectError(f"its name is not known ({error.strerror or error})") from None
        share = None if timeout is None else timeout / len(addresses)
        last: Exception = httpcore.ConnectError("no address")
        for address in addresses:
            try:
                return await self._inner.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        raise last

    async def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Any = None) -> Any:
        raise httpcore.ConnectError("sockets of this machine are not called")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class GuardedTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over `backend`: no proxy, no redirects, no connection kept for a later request.

    Raises httpx's errors, and what the backend's guard raises.
    """

    def __init__(self, backend: GuardedBackend, tls: ssl.SSLContext) -> None:
        self._pool = httpcore.AsyncConnectionPool(tls, max_keepalive_connections=0, network_backend=backend)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        url = request.url
        core = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        try:
            answer = await self._pool.handle_async_request(core)
        except Exception as error:
            raise _as_httpx(error) from error
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer))

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._answer.aiter_stream():
                yield part
        except Exception as error:
            raise _as_httpx(error) from error

    async def aclose(self) -> None:
        await self._answer.aclose()


def _as_httpx(error: Exception) -> Exception:
    """httpcore's errors have the names of httpx's; whatever else is raised stays itself."""
    same = getattr(httpx, type(error).__name__, None)
    if type(error).__module__.startswith("httpcore") and isinstance(same, type) and issubclass(same, httpx.HTTPError):
        return same(str(error))
    return error


def guarded_client(guard: NetGuard, field: str, tls: ssl.SSLContext, timeout: float) -> httpx.AsyncClient:
    """A client for one exchange: nothing of the environment (proxies, .netrc) is read, no redirect followed."""
    transport = GuardedTransport(GuardedBackend(guard, field), tls)
    return httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, timeout=timeout)
