"""Plain ASGI layers around the routes: a request id with one log line per request, and a limit on body size."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdwebui_api.api.call_log import Call, Observer
from sdwebui_api.api.errors import error_response
from sdwebui_api.errors import PayloadTooLarge


class RequestLog:
    """Gives every request an id (the client's `X-Request-Id` if it has a usable one) and tells `observers` of its end.

    `show_time`: the answer says how long it took.
    """

    def __init__(self, app: ASGIApp, *, observers: Sequence[Observer] = (), show_time: bool = False) -> None:
        self.app = app
        self._observers = observers
        self._show_time = show_time

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        begun = time.perf_counter()
        status, sent = 500, 0

        async def send_with_id(message: Message) -> None:
            nonlocal status, sent
            sent += len(message.get("body", b""))
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                if self._show_time:
                    headers["X-Process-Time"] = f"{time.perf_counter() - begun:.4f}"
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            announced = Headers(scope=scope).get("content-length", "")
            received = int(announced) if announced.isdecimal() else 0
            call = Call(scope, request_id, status, time.perf_counter() - begun, received, sent)
            for observer in self._observers:
                observer(call)


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if 0 < len(given) <= 100 and given.isprintable() and " " not in given else uuid.uuid4().hex[:16]


class Subpath:
    """`--subpath`: every route answers below the prefix too, and links (redirects, /docs) carry it."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and self.prefix:
            scope = {**scope, "root_path": self.prefix}
        await self.app(scope, receive, send)


MAX_COMMAS = 250_000
"""Of one body: JSON of millions of values takes seconds to parse, on the event loop. A base64 picture has none."""
OPAQUE = ("/api/predict/", "/gradio_api/upload", "/file_browser/v1/upload")
"""What is put into the queue, or uploaded by the page, is stored and not parsed."""
RETRY_AFTER_SECONDS = 5


class BodyLimit:
    """413 for a body above `limit` bytes, before any of it is parsed; 429 when all bodies together exceed `budget`.

    A request keeps its body until it is answered, so those of a long line add up.
    """

    def __init__(self, app: ASGIApp, limit: int, budget: int = 2**30) -> None:
        self.app = app
        self.limit = limit
        self.budget = budget
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > self.limit:
            await error_response(self._error())(scope, receive, send)
            return
        taken = commas = 0
        # (A call by way of the gateway has another path by now.)
        opaque = scope["path"].removeprefix(scope.get("root_path", "")).startswith(OPAQUE)

        # An HTTPException passes FastAPI's body reader; any other error would become a 400 there.
        async def counted() -> Message:
            nonlocal taken, commas
            message = await receive()
            body = message.get("body", b"")
            taken += len(body)
            self._held += len(body)
            commas += 0 if opaque else body.count(b",")
            if taken > self.limit:
                raise HTTPException(413, self._error().message)
            if commas > MAX_COMMAS:
                raise HTTPException(413, f"The request body holds more than {MAX_COMMAS} values")
            if self._held > max(self.budget, taken):
                headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
                raise HTTPException(429, "The requests that wait already hold too much data", headers)
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self._held -= taken

    def _error(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"The request body is larger than {self.limit // 2**20} MB")
