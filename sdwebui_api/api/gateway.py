"""The layer around `/api/predict/…`, the address of a service behind an EAS gateway."""

from __future__ import annotations

from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = "/api/predict/"
GENERIC_TYPES = ("", "application/octet-stream")
"""What the synchronous clients send when nobody tells them otherwise; the body is JSON."""


class Gateway:
    """Answers below `/api/predict/` carry no Retry-After: the SDKs' HTTP library obeys it inside each of their own six
    tries. Without a queue, `/api/predict/<service>/<path>` is answered as `/<path>`.

    `synchronous`: the service's name then; None with a queue. `default_path`: of a POST without one.
    """

    def __init__(self, app: ASGIApp, synchronous: str | None, default_path: str) -> None:
        self.app = app
        self._own = f"{PREFIX}{synchronous}" if synchronous else None
        self._default_path = default_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            root = scope.get("root_path", "")
            path = scope["path"].removeprefix(root)
            if path.startswith(PREFIX):
                send = _impatient(send)
                scope = self._directed(scope, path)
        await self.app(scope, receive, send)

    def _directed(self, scope: Scope, path: str) -> Scope:
        own = self._own
        if own is None or not (path == own or path.startswith(f"{own}/")):
            return scope
        rest = path.removeprefix(own).strip("/")
        if not rest and scope["method"] == "POST":
            rest = self._default_path
        directed = {**scope, "path": f"/{rest}", "raw_path": quote(f"/{rest}").encode(), "headers": _as_json(scope)}
        return directed


def _as_json(scope: Scope) -> list[tuple[bytes, bytes]]:
    headers: list[tuple[bytes, bytes]] = list(scope["headers"])
    if scope["method"] != "POST" or Headers(scope=scope).get("content-type", "").lower() not in GENERIC_TYPES:
        return headers
    return [
        *((name, value) for name, value in headers if name != b"content-type"),
        (b"content-type", b"application/json"),
    ]


def _impatient(send: Send) -> Send:
    async def without_retry_after(message: Message) -> None:
        if message["type"] == "http.response.start":
            del MutableHeaders(scope=message)["retry-after"]
        await send(message)

    return without_retry_after
