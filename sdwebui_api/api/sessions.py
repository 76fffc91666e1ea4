"""Who has logged in with the form: signed cookies, good for a month, or until the password or token changes.

Nothing is remembered here, so a log-in outlives a restart; the key lies in the cache folder of the data directory.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import secrets
import time
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from sdwebui_api.api.accounts import Accounts

log = logging.getLogger(__name__)

KEPT_SECONDS = 30 * 86_400
KEY_BYTES = 32


class Sessions:
    def __init__(self, accounts: Accounts, key: bytes) -> None:
        self._accounts = accounts
        self._key = key
        # Browsers send a host's cookies to all its ports: two servers must not log each other out.
        self._name = f"sdwebui_session_{hashlib.sha256(key).hexdigest()[:8]}"

    def opened(self, user: str, scope: Scope) -> str:
        """The value of `Set-Cookie` for somebody who has just logged in."""
        expires = int(time.time()) + KEPT_SECONDS
        secret = next(self._accounts.secrets_of(user))
        name = base64.urlsafe_b64encode(user.encode()).decode().rstrip("=")
        return self._cookie(f"{name}.{expires}.{self._seal(user, expires, secret)}", KEPT_SECONDS, scope)

    def closed(self, scope: Scope) -> str:
        return self._cookie("", 0, scope)

    def _cookie(self, value: str, seconds: int, scope: Scope) -> str:
        # Other sites' forms and scripts do not bring it along (Lax), and no script reads it.
        path = scope.get("root_path", "") or "/"
        secure = "; Secure" if scope.get("scheme") in ("https", "wss") else ""
        return f"{self._name}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"

    def user(self, scope: Scope) -> str | None:
        """Whose cookie a request carries; None without a good one."""
        for text in Headers(scope=scope).getlist("cookie"):
            found = cookie_parser(text).get(self._name)
            if found and (user := self._checked(found)) is not None:
                return user
        return None

    def _checked(self, value: str) -> str | None:
        name, _, rest = value.partition(".")
        expires, _, seal = rest.partition(".")
        try:
            user = base64.b64decode(name + "=" * (-len(name) % 4), altchars=b"-_", validate=True).decode()
        except (binascii.Error, ValueError):
            return None
        if not (expires.isascii() and expires.isdigit() and len(expires) < 12) or int(expires) < time.time():
            return None
        sealed = [self._seal(user, int(expires), secret) for secret in self._accounts.secrets_of(user)]
        return user if any(hmac.compare_digest(seal.encode(), one.encode()) for one in sealed) else None

    def _seal(self, user: str, expires: int, secret: bytes) -> str:
        text = f"{user}\0{expires}\0".encode() + hashlib.sha256(secret).digest()
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()


def session_key(file: Path) -> bytes:
    """The key in `file`, made at the first start. Where it cannot be kept, log-ins end with the program."""
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
            draft.touch(0o600, exist_ok=False)
            draft.write_bytes(secrets.token_bytes(KEY_BYTES))
            os.replace(draft, file)
        if len(key := file.read_bytes()) == KEY_BYTES:
            return key
        log.warning("%s is no key; log-ins end with the program", file)
    except OSError as error:
        log.warning("%s cannot be kept (%s); log-ins end with the program", file, error)
    return secrets.token_bytes(KEY_BYTES)
