"""`--user-header`: the name of the user as a proxy in front of this server states it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import Scope

from sdwebui_api.config.flags import Flags
from sdwebui_api.config.users import clean_name
from sdwebui_api.errors import BadRequest, Unauthorized

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True)
class TrustedHeader:
    """Believed only where the connection itself comes from one of `proxies`; from elsewhere it is as good as absent."""

    name: bytes
    proxies: Sequence[Network]

    def user(self, scope: Scope) -> str | None:
        """Raises Unauthorized when a trusted proxy sends what names nobody, or more than one name."""
        values = [value for name, value in scope["headers"] if name.lower() == self.name]
        if not values or not self._trusted(scope.get("client")):
            return None
        if len(values) > 1:
            # The proxy has added its own to the one of the client: nobody can tell which is which.
            raise Unauthorized("The user is named more than once")
        try:
            text = values[0].decode("utf-8")
        except UnicodeDecodeError:
            raise Unauthorized("The name of the user is not UTF-8") from None
        user = clean_name(text)
        if user is None or "," in user:  # a comma: two headers that a proxy has joined
            raise Unauthorized("The header names no user")
        return user

    def _trusted(self, client: tuple[str, int] | None) -> bool:
        if client is None:  # a socket that is a file
            return False
        try:
            address = ipaddress.ip_address(client[0].partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self.proxies)


def trusted_header(flags: Flags) -> TrustedHeader | None:
    """Raises BadRequest for flags that do not fit together."""
    if not flags.user_header and not flags.trusted_proxies:
        return None
    if not (flags.cluster and flags.user_header and flags.trusted_proxies):
        raise BadRequest("--user-header and --trusted-proxies belong together, and to --cluster")
    if not _HEADER.fullmatch(flags.user_header):
        raise BadRequest(f"--user-header: {flags.user_header!r} is not the name of a header")
    words = [word.strip() for word in flags.trusted_proxies.split(",") if word.strip()]
    try:
        proxies = [ipaddress.ip_network(word) for word in words]
    except ValueError as error:
        raise BadRequest(f"--trusted-proxies: expected CIDR[,CIDR], such as 10.0.0.0/8: {error}") from None
    return TrustedHeader(flags.user_header.lower().encode(), proxies)
