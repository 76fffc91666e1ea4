"""Who may call: `--api-auth` (HTTP Basic) and `--token` (Bearer, bare as EAS clients send it, or as a signature).

Every route asks, but for `/health/*`. Without either flag nobody is asked, and an empty or odd
`Authorization` header (open-webui, SillyTavern) is tolerated.
"""

from __future__ import annotations

import base64
import binascii
import hmac

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sdwebui_api.api import eas_signature
from sdwebui_api.api.errors import error_body
from sdwebui_api.api.tokens import Tokens
from sdwebui_api.queueing.call import queued_call

OPEN_PREFIX = "/health/"


class Credentials:
    """The users and the tokens of the command line."""

    def __init__(self, api_auth: str | None, tokens: Tokens) -> None:
        pairs = (entry.partition(":") for entry in (api_auth or "").split(",") if entry.strip())
        self._users = [(name.strip(), f"{name.strip()}:{password.strip()}".encode()) for name, _, password in pairs]
        self._tokens = tokens

    @property
    def required(self) -> bool:
        return bool(self._users or self._tokens)

    @property
    def challenge(self) -> str:
        return 'Basic realm="sdwebui_api"' if self._users else 'Bearer realm="sdwebui_api"'

    def check(self, header: str) -> tuple[str | None, str]:
        """(user, "") for a good header, (None, why) for another. Compares in constant time."""
        scheme, _, value = header.strip().partition(" ")
        if scheme.lower() == "basic" and self._users:
            return self._check_basic(value.strip())
        given = (value.strip() if scheme.lower() == "bearer" else header.strip()).encode()
        found = [user for user, token in self._tokens.pairs() if hmac.compare_digest(given, token)]
        return (found[0], "") if found else (None, "Not authenticated")

    def check_signature(self, scope: Scope) -> str | None:
        """The user whose token an `Authorization: EAS …` was made with. The body is still to be checked."""
        found = [user for user, token in self._tokens.pairs() if eas_signature.signed_by(token, scope)]
        return found[0] if found else None

    def _check_basic(self, value: str) -> tuple[str | None, str]:
        try:
            given = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return None, "Invalid authentication credentials"
        found = None
        for name, expected in self._users:
            if hmac.compare_digest(given, expected):
                found = name
        return (found, "") if found is not None else (None, "Incorrect username or password")


class AuthMiddleware:
    """Refuses with 401; a good request carries its user in `scope["state"]["user"]`."""

    def __init__(self, app: ASGIApp, credentials: Credentials) -> None:
        self.app = app
        self.credentials = credentials

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not self.credentials.required or self._open(scope):
            await self.app(scope, receive, send)
            return
        user, why = self.credentials.check(Headers(scope=scope).get("authorization", ""))
        if user is None and scope["type"] == "http" and (signer := self.credentials.check_signature(scope)):
            user, receive = signer, eas_signature.checked_body(scope, receive)
        if user is None:
            answer = JSONResponse(
                error_body("HTTPException", why), 401, headers={"WWW-Authenticate": self.credentials.challenge}
            )
            await answer(scope, receive, send)
            return
        scope.setdefault("state", {})["user"] = user
        await self.app(scope, receive, send)

    @staticmethod
    def _open(scope: Scope) -> bool:
        """Health, and the worker's own calls: who put the request has been asked then."""
        if queued_call(scope) is not None:
            return True
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        return path.removeprefix(root).startswith(OPEN_PREFIX)
