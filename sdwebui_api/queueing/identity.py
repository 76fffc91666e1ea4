"""Who asks: the consumer and group names in the headers of the SDKs, and the other headers of a queue."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from starlette.datastructures import Headers

from sdwebui_api.errors import BadRequest
from sdwebui_api.queueing.model import DEFAULT_GROUP, HIGH, LOW, REQUEST_ID
from sdwebui_api.queueing.query import Query

USER_HEADER = "X-EAS-QueueService-Redis-Uid"
GROUP_HEADER = "X-EAS-QueueService-Redis-Gid"
PRIORITY_HEADER = "X-EAS-QueueService-Priority"
REAR_HEADER = "X-EAS-QueueService-Access-Rear"
REQUEST_ID_HEADER = "X-Eas-Queueservice-Request-Id"
MAX_NAME = 200
_REQUEST_ID = re.compile(rf"[!-~](?:[ -~]{{0,{MAX_NAME - 2}}}[!-~])?")
"""What a response header can hold."""


@dataclass(frozen=True)
class Identity:
    group: str
    user: str


def identity_of(headers: Headers) -> Identity:
    """A client without a name gets one of its own; without a group, the one of the SDKs."""
    return Identity(
        _name(headers, GROUP_HEADER) or DEFAULT_GROUP, _name(headers, USER_HEADER) or f"anonymous-{uuid.uuid4()}"
    )


def _name(headers: Headers, header: str) -> str:
    value = headers.get(header, "").strip()
    if len(value) > MAX_NAME or not value.isprintable():
        raise BadRequest(f"The header {header} must be at most {MAX_NAME} printable characters")
    return value


def is_rear(headers: Headers) -> bool:
    """Whether the dead letters are meant instead of the queue that the path names."""
    return headers.get(REAR_HEADER, "").strip().lower() in ("true", "1")


def request_id_of(query: Query) -> str:
    """The client's own, or a new one."""
    given = query.tags.get(REQUEST_ID, "")
    if not given:
        return str(uuid.uuid4())
    if not _REQUEST_ID.fullmatch(given):
        raise BadRequest(f"{REQUEST_ID} must be 1 to {MAX_NAME} printable ASCII characters without blanks around them")
    return given


def priority_of(query: Query, headers: Headers) -> int:
    """Of the query, else of the header; whatever lies outside of low and high is the nearer one."""
    name = "_priority_"
    given = query.reserved.get(name) or headers.get(PRIORITY_HEADER, "").strip()
    if not given:
        return LOW
    wanted = Query({name: given}, {}).whole(name, LOW, least=-(2**62))
    return min(max(wanted, LOW), HIGH)
