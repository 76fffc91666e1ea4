"""The worker's way to the routes: a POST to the application of this process, without a socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from sdwebui_api.queueing.call import QueuedCall, mark, public_tags
from sdwebui_api.queueing.model import REQUEST_ID

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Application = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]
MAX_ANSWER_BYTES = 16 * 2**20
"""What a result may hold; larger ones belong into files."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    """Empty when it was `too_large`."""
    too_large: bool = False
    retry_after: float | None = None
    """Seconds, as the header said; only 429 and 503 carry it."""


class InProcess:
    """Calls `app` as a server would, with the item's tags as the query. Cancelling a call hangs up on it."""

    def __init__(self, app: Application, *, max_answer: int = MAX_ANSWER_BYTES) -> None:
        self._app = app
        self._max_answer = max_answer

    async def post(self, path: str, body: bytes, call: QueuedCall) -> Answer:
        """`path` without a leading slash. Never raises for what the application does: a crash in it is a 500."""
        scope = _scope(path, body, call)
        answer = _Collector(self._max_answer)
        try:
            await self._app(scope, _Sender(body), answer)
        except Exception:
            # Starlette raises a bug again after it has answered 500; its log entry is the traceback.
            log.exception("POST /%s failed for the queued request %s", path, call.request_id)
            answer.failed()
        return answer.complete()


def _scope(path: str, body: bytes, call: QueuedCall) -> dict[str, Any]:
    query = urlencode({name: value for name, value in public_tags(call.tags).items() if name != REQUEST_ID})
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": f"/{path}",
        "raw_path": quote(f"/{path}").encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (b"host", b"queue"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", quote(call.request_id).encode()),
        ],
        "client": ("queue", 0),
        "server": ("queue", 80),
    }
    mark(scope, call)
    if call.user is not None:
        scope["state"]["user"] = call.user
    return scope


class _Sender:
    """ASGI's `receive`: the body, then silence until the call is cancelled."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def __call__(self) -> Message:
        if self._body is None:
            await asyncio.Event().wait()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Collector:
    """ASGI's `send`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._status = 0
        self._retry_after: float | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._ended = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._retry_after = _retry_after(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self._take(message.get("body", b""))
            self._ended = not message.get("more_body", False)

    def _take(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            self._parts.clear()
        else:
            self._parts.append(bytes(part))

    def failed(self) -> None:
        if not self._ended:
            self._status, self._parts, self._size = 500, [], 0

    def complete(self) -> Answer:
        return Answer(self._status or 500, b"".join(self._parts), self._size > self._limit, self._retry_after)


def _retry_after(headers: Any) -> float | None:
    for name, value in headers:
        if name.lower() == b"retry-after" and value.isdigit():
            return float(value)
    return None
