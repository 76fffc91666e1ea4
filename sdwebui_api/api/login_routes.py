"""Where the form of the page's log-in is sent to, and the way out."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from sdwebui_api.api.auth import Doorkeeper
from sdwebui_api.api.login_form import login_form

TRY_AGAIN_SECONDS = 0.5
"""A wrong password costs that, so that guessing takes its time."""
MOST_BYTES = 16 * 1024


def login_routes(keeper: Doorkeeper) -> list[BaseRoute]:
    """`/login` and `/logout`; none where nobody can log in. Programs post the form (gradio_client) and get JSON."""
    sessions = keeper.open_form()
    if sessions is None:
        return []

    async def show(request: Request) -> Response:
        return login_form(request.scope, keeper.localization, target=_home(request.scope))

    async def log_in(request: Request) -> Response:
        name, password, target = await _fields(request)
        user = keeper.accounts.check(name, password)
        browser = "text/html" in request.headers.get("accept", "")
        if user is None:
            await asyncio.sleep(TRY_AGAIN_SECONDS)
            if browser:
                return login_form(request.scope, keeper.localization, target=target, wrong=True)
            raise HTTPException(400, "Incorrect credentials.")
        cookie = {"Set-Cookie": sessions.opened(user, request.scope), "Cache-Control": "no-store"}
        if browser:
            return RedirectResponse(_local(target, request.scope), 303, headers=cookie)
        return JSONResponse({"success": True}, headers=cookie)

    async def log_out(request: Request) -> Response:
        cookie = {"Set-Cookie": sessions.closed(request.scope), "Cache-Control": "no-store"}
        return RedirectResponse(_home(request.scope), 303, headers=cookie)

    return [
        Route("/login", show, methods=["GET"], include_in_schema=False),
        Route("/login", log_in, methods=["POST"], include_in_schema=False),
        Route("/logout", log_out, methods=["GET"], include_in_schema=False),
    ]


async def _fields(request: Request) -> tuple[str, str, str]:
    """Of a form that anybody may send: little of it is ever held."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"A log-in has {MOST_BYTES} bytes at most")
    try:
        form = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=10))
    except ValueError:
        raise HTTPException(400, "Incorrect credentials.") from None
    return form.get("username", ""), form.get("password", ""), form.get("next", "")


def _home(scope: Scope) -> str:
    return f"{scope.get('root_path', '')}/"


def _local(target: str, scope: Scope) -> str:
    """An address of this server; everything else (`//host`, `/\\host`, `https:…`) is the page."""
    odd = not target.isprintable() or "\\" in target or not target.startswith("/") or target.startswith("//")
    return _home(scope) if odd or target.partition("?")[0].endswith("/login") else target
