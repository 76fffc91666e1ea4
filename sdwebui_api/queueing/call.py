"""What a route can know of the queued request it answers.

The worker calls the application in-process and marks the ASGI scope; no client can, for servers make
`scope["state"]` themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

CALLBACK_URL = "_callback_url_"
"""The tag in which a put keeps the address its result is sent to. Tags that begin with `_` are never shown."""
USER = "_user_"
"""The tag with the user who put the item, where users log in."""
_KEY = "queued"


@dataclass(frozen=True)
class QueuedCall:
    """The item behind a call: its job gets the id `request_id`, its answer the URL form."""

    request_id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    """Who put it, where users log in."""


def queued_call(scope: Mapping[str, Any]) -> QueuedCall | None:
    """None: an ordinary request from outside."""
    found = scope.get("state", {}).get(_KEY)
    return found if isinstance(found, QueuedCall) else None


def mark(scope: MutableMapping[str, Any], call: QueuedCall) -> None:
    """Lets the application answer as it answers the queue, without asking who calls."""
    scope.setdefault("state", {})[_KEY] = call


def kept_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Those that a result takes over from its request: the public ones, and whose it is."""
    return {name: value for name, value in tags.items() if not name.startswith("_") or name == USER}


def public_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Those that clients sent and see; internal ones begin with `_`."""
    return {name: value for name, value in tags.items() if not name.startswith("_")}
