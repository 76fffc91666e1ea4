"""`--cluster`: gradio's own routes, each for the user it works for.

Gradio knows visitors by a name that their browser makes up (`session_hash`), and serves every file of its cache to
whoever knows the address. Here both belong to a user: a session to the first who speaks in it, a file to those who
have uploaded it or were shown it. What somebody else's is answers as what does not exist.
"""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdwebui_api.api.errors import error_body

PREFIX = "/gradio_api/"
PLAIN = frozenset(
    {
        *("info", "openapi.json", "app_id", "startup-events", "theme.css", "login_check", "custom_component", "user"),
        *("token", "queue/status", "upload", "upload_progress", "queue/data"),
    }
)
"""Below the prefix: what needs no look beyond the query. Neither here nor below: refused."""
WITH_BODY = frozenset({"queue/join", "cancel", "reset", "run", "api", "call", "component_server"})
MOST_OF_ONE = 20_000
"""Names that are remembered of a user; the oldest are forgotten first."""
_PATH = re.compile(rb'"path":\s*("(?:[^"\\]|\\.)*")')
_EVENT = re.compile(rb'"event_id":\s*"([0-9a-zA-Z_-]{1,64})"')


class NotYours(Exception):
    """Somebody else's, or nobody's."""


class Ledger:
    """Which names are whose. Belongs to the event loop."""

    def __init__(self) -> None:
        self._owners: dict[str, set[str]] = {}
        self._of_user: defaultdict[str, OrderedDict[str, None]] = defaultdict(OrderedDict)

    def add(self, name: str, user: str) -> None:
        self._owners.setdefault(name, set()).add(user)
        own = self._of_user[user]
        own[name] = None
        own.move_to_end(name)
        if len(own) > MOST_OF_ONE:
            self._forget(own.popitem(last=False)[0], user)

    def _forget(self, name: str, user: str) -> None:
        self._owners[name].discard(user)
        if not self._owners[name]:
            del self._owners[name]

    def check(self, name: str, user: str) -> None:
        """Raises NotYours."""
        if user not in self._owners.get(name, ()):
            raise NotYours
        self._of_user[user].move_to_end(name)

    def claim(self, name: str, user: str) -> None:
        """Belongs to `user` from now on, unless it is another's: raises NotYours then."""
        if name in self._owners:
            self.check(name, user)
        else:
            self.add(name, user)


class PageGuard:
    """Inside of gradio's compression, so that it can read what is answered."""

    def __init__(self, app: ASGIApp, cache: Path, users: Path) -> None:
        """cache: gradio's folder of files to serve; users: the folder of all users' folders."""
        self._app = app
        self._cache = Path(os.path.realpath(cache))
        self._users = Path(os.path.realpath(users))
        self._ledger = Ledger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            user: str | None = scope.get("state", {}).get("user")
            if user is None or scope["type"] != "http":
                raise NotYours
            receive, noted = await self._checked(scope, receive, user, path)
        except NotYours:
            await JSONResponse(error_body("NotFound", "Not Found"), 404)(scope, receive, send)
            return
        await self._app(scope, receive, self._noting(send, user) if noted else send)

    # -- what is asked ---------------------------------------------------------------------------------------------

    async def _checked(self, scope: Scope, receive: Receive, user: str, path: str) -> tuple[Receive, bool]:
        """(what the application reads, whether the answer names what is the user's). Raises NotYours."""
        self._check_query(scope, user)
        if not path.startswith(PREFIX):
            if path.startswith("/monitoring"):
                raise NotYours
            return receive, False
        rest = path.removeprefix(PREFIX).rstrip("/")
        if match := re.match(r"file[=/]", rest):
            self._check_file(path.removeprefix(PREFIX)[match.end() :], user, served=True)
            return receive, False
        parts = rest.split("/")
        if parts[0] == "heartbeat" and len(parts) == 2:
            self._ledger.claim(f"session {parts[1]}", user)
        elif parts[0] == "call" and scope["method"] != "POST":
            self._ledger.check(f"event {parts[-1]}", user)
        elif rest in WITH_BODY or parts[0] in WITH_BODY:
            receive = await self._check_body(scope, receive, user)
        elif rest not in PLAIN and parts[0] not in PLAIN:
            raise NotYours
        return receive, True

    def _check_query(self, scope: Scope, user: str) -> None:
        for name, value in parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True):
            if name == "deep_link":  # a visitor's whole page, by an address
                raise NotYours
            if name in ("session_hash", "upload_id"):
                self._ledger.claim(f"{name.partition('_')[0]} {value}", user)

    async def _check_body(self, scope: Scope, receive: Receive, user: str) -> Receive:
        body = await _whole(receive)
        if Headers(scope=scope).get("content-type", "").startswith("multipart/"):
            await self._check_form(Request(scope, _again(body, receive)), user)
        else:
            self._check_call(body, user)
        return _again(body, receive)

    async def _check_form(self, request: Request, user: str) -> None:
        """What an editor of pictures draws is kept below a name that its browser makes up, too."""
        try:
            async with request.form() as form:
                named = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        except HTTPException:
            raise NotYours from None
        for name, value in named:
            if name in ("session_hash", "id"):
                self._ledger.claim(f"{name.partition('_')[0]} {value}", user)

    def _check_call(self, body: bytes, user: str) -> None:
        try:
            call = json.loads(body or b"null")
        except (ValueError, RecursionError):
            raise NotYours from None
        if isinstance(call, dict):
            if isinstance(session := call.get("session_hash"), str):
                self._ledger.claim(f"session {session}", user)
            if isinstance(event := call.get("event_id"), str):
                self._ledger.check(f"event {event}", user)
        for one in _objects(call):
            if isinstance(file := one.get("path"), str):
                self._check_file(file, user)
            if "composite" in one and isinstance(drawing := one.get("id"), str):
                self._ledger.claim(f"id {drawing}", user)

    def _check_file(self, spelled: str, user: str, *, served: bool = False) -> None:
        """`served`: it is asked for. Gradio itself refuses what lies neither in its cache nor in an allowed folder."""
        real = _real(spelled)
        if real is None:
            raise NotYours
        if self._users == real or self._users in real.parents:
            raise NotYours  # users' own files go through FileBrowser
        if self._cache in real.parents:
            self._ledger.check(self._name_of(real), user)
        elif served and re.match(r"[a-z]+:", spelled):
            raise NotYours

    def _name_of(self, file: Path) -> str:
        """Gradio puts every file into a folder of its own, called by its contents."""
        return f"file {file.relative_to(self._cache).parts[0]}"

    # -- what is answered ------------------------------------------------------------------------------------------

    def _noting(self, send: Send, user: str) -> Send:
        """Events and files that the answer names are the user's. In texts quotes are escaped, so none can pose."""
        texts = False

        async def noted(message: Message) -> None:
            nonlocal texts
            if message["type"] == "http.response.start":
                kind = Headers(raw=message["headers"]).get("content-type", "")
                texts = kind.startswith(("application/json", "text/event-stream"))
            elif texts and message.get("body"):
                self._note(message["body"], user)
            await send(message)

        return noted

    def _note(self, body: bytes, user: str) -> None:
        for event in _EVENT.findall(body):
            self._ledger.add(f"event {event.decode()}", user)
        for spelled in (*map(json.loads, _PATH.findall(body)), *_uploaded(body)):
            real = _real(spelled)
            if real is not None and self._cache in real.parents:
                self._ledger.add(self._name_of(real), user)


def _real(spelled: str) -> Path | None:
    """None for what can be no path."""
    try:
        return Path(os.path.realpath(spelled))
    except (ValueError, OSError):
        return None


def _uploaded(body: bytes) -> list[str]:
    """The answer to an upload is a list of files."""
    try:
        found = json.loads(body) if body.startswith(b"[") else []
    except ValueError:
        return []
    return [one for one in found if isinstance(one, str)]


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """All that the arguments of a call hold, at any depth."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield one
            left += one.values()
        elif isinstance(one, list):
            left += one


async def _whole(receive: Receive) -> bytes:
    parts = bytearray()
    while True:
        message = await receive()
        parts += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body", False):
            return bytes(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """ASGI's `receive` for a body that has been read."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
