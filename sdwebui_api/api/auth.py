"""Who calls: `--api-auth` (HTTP Basic) and `--token` (Bearer, bare as EAS clients send it, or as a signature), the
log-in of the page, and with `--cluster` a header that a proxy sets.

Every route asks, but for `/health/*` and the log-in itself. Without `--api-auth`, `--token`, `--token-file` and
`--cluster` the API asks nobody, and an empty or odd `Authorization` header (open-webui, SillyTavern) is tolerated.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass, replace
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sdwebui_api.api import eas_signature
from sdwebui_api.api.accounts import Accounts
from sdwebui_api.api.errors import error_body
from sdwebui_api.api.login_form import logged_out, login_form, wants_form
from sdwebui_api.api.sessions import EndedSessions, Sessions, session_key
from sdwebui_api.api.tokens import DEFAULT_USER, Tokens
from sdwebui_api.api.trusted_header import TrustedHeader, trusted_header
from sdwebui_api.config.flags import Flags
from sdwebui_api.config.paths import Paths
from sdwebui_api.config.users import clean_name
from sdwebui_api.errors import BadRequest, Unauthorized
from sdwebui_api.queueing.call import queued_call

OPEN_PREFIX = "/health/"
LOGIN, LOGOUT = "/login", "/logout"
UNKNOWN = "Not authenticated"
NO_NAME = "This token names no user; --cluster needs USER:TOKEN"


class Credentials:
    """What an `Authorization` header may say."""

    def __init__(self, pairs: list[tuple[str, bytes]], tokens: Tokens) -> None:
        """`pairs`: (user, `user:password`)."""
        self._users = pairs
        self._tokens = tokens

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
        return (found[0], "") if found else (None, UNKNOWN)

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


@dataclass(frozen=True)
class Caller:
    user: str | None
    why: str = ""
    """Of a user who is not known."""
    signed: bool = False
    """The body is part of the proof."""
    logged_in: bool = False
    """By the form of the page: there is a session that can be ended."""


class Doorkeeper:
    """Knows callers by all that the command line allows. One per application."""

    def __init__(self, flags: Flags) -> None:
        """Raises NotFound and BadRequest for flags and files that cannot be used, or leave nobody to know."""
        tokens = Tokens(flags.token, flags.token_file)
        self.accounts = Accounts(flags, tokens)
        self.cluster = flags.cluster
        self.asks_api = bool(self.accounts.api or tokens or flags.cluster)
        """Everybody, for every route."""
        self.asks_page = bool(self.accounts) or flags.cluster
        self.localization = flags.localization
        self.sessions: Sessions | None = None
        """Of the page's visitors; None: there is no page, or nobody who could log in."""
        self._session_folder = Paths.from_flags(flags).cache_dir
        self.credentials = Credentials([*self.accounts.api, *(self.accounts.page if flags.cluster else ())], tokens)
        self._proof_beside_header = bool(self.accounts.api or tokens)
        self._header: TrustedHeader | None = trusted_header(flags)
        if flags.cluster and not self.accounts and self._header is None:
            raise BadRequest(
                "--cluster has to know its users: by --user-header with --trusted-proxies, by --gradio-auth, "
                "--gradio-auth-path or --api-auth, or by --token-file with USER:TOKEN"
            )

    def open_form(self) -> Sessions | None:
        """There is a page: its visitors are shown a form to log in with, if anybody can."""
        if self.accounts and self.sessions is None:
            key, ended = session_key(self._session_folder / "sessions.key"), self._session_folder / "sessions.ended"
            self.sessions = Sessions(self.accounts, key, EndedSessions(ended))
        return self.sessions

    def caller(self, scope: Scope) -> Caller:
        """Raises Unauthorized."""
        stated = self._header.user(scope) if self._header is not None else None
        if stated is not None and not self._proof_beside_header:
            return Caller(stated)
        proven = self._proven(scope)
        if stated is not None and proven.user is not None:
            return Caller(stated, signed=proven.signed)
        return self._named(proven) if self.cluster else proven

    def _proven(self, scope: Scope) -> Caller:
        """By what the caller itself sends."""
        user, why = self.credentials.check(Headers(scope=scope).get("authorization", ""))
        if user is not None:
            return Caller(user)
        if scope["type"] == "http" and (signer := self.credentials.check_signature(scope)):
            return Caller(signer, signed=True)
        user = self.sessions.user(scope) if self.sessions is not None else None
        return Caller(user, why, logged_in=user is not None)

    @staticmethod
    def _named(caller: Caller) -> Caller:
        """With a user of an own; a token without a name belongs to nobody."""
        if caller.user == DEFAULT_USER:
            return Caller(None, NO_NAME)
        if caller.user is None:
            return caller
        name = clean_name(caller.user)
        return replace(caller, user=name, why="" if name else "This log-in names no user")

    def refusal(self, scope: Scope, why: str) -> Response:
        """The form for a visitor of the page, an error for everybody else."""
        if self.sessions is not None and wants_form(scope):
            return login_form(scope, self.localization)
        # A browser would put a dialog of its own over the page, for which there is the form. (Node's fetch, which
        # programs call the API with, sends Sec-Fetch-Mode too.)
        from_page = self.sessions is not None and Headers(scope=scope).get("sec-fetch-site") == "same-origin"
        headers = {} if from_page else {"WWW-Authenticate": self.credentials.challenge}
        if from_page and why in ("", UNKNOWN):
            why = logged_out(scope, self.localization)
        return JSONResponse(error_body("HTTPException", why or UNKNOWN), 401, headers=headers)


class AuthMiddleware:
    """Refuses with 401; a good request carries its user in `scope["state"]["user"]`, and beside it in `logged_in`
    whether it is the session of a log-in that says so."""

    def __init__(self, app: ASGIApp, keeper: Doorkeeper) -> None:
        self.app = app
        self.keeper = keeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        keeper = self.keeper
        if scope["type"] not in ("http", "websocket") or not keeper.asks_page or self._open(scope):
            await self.app(scope, receive, send)
            return
        try:
            caller = keeper.caller(scope)
        except Unauthorized as error:
            caller = Caller(None, error.message)
        if caller.user is None and keeper.asks_api:
            await keeper.refusal(scope, caller.why)(scope, receive, send)
            return
        if caller.signed:
            receive = eas_signature.checked_body(scope, receive)
        if caller.user is not None:
            state: dict[str, Any] = scope.setdefault("state", {})
            state["user"] = caller.user
            state["logged_in"] = caller.logged_in
        await self.app(scope, receive, send)

    def _open(self, scope: Scope) -> bool:
        """Health, the log-in of the page, and the worker's own calls: who put the request has been asked then."""
        if queued_call(scope) is not None:
            return True
        path: str = scope["path"]
        path = path.removeprefix(scope.get("root_path", ""))
        return path.startswith(OPEN_PREFIX) or (self.keeper.sessions is not None and path in (LOGIN, LOGOUT))
