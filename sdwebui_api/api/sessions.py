"""Who has logged in with the form: signed cookies, good for a month, until the password or token changes, or until
somebody logs out with them.

Of log-ins nothing is remembered, so one outlives a restart; the key lies in the cache folder of the data directory, and
beside it what ended before its time, so that a copy of the cookie is worth nothing after the log-out.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from sdwebui_api.api.accounts import Accounts

log = logging.getLogger(__name__)

KEPT_SECONDS = 30 * 86_400
KEY_BYTES = 32
ID_BYTES = 12
_VALUE = re.compile(
    r"(?P<name>[A-Za-z0-9_-]*)\.(?P<expires>[0-9]{1,11})\.(?P<id>[A-Za-z0-9_-]{16})\.(?P<seal>[0-9a-f]{64})"
)


class Sessions:
    def __init__(self, accounts: Accounts, key: bytes, ended: EndedSessions) -> None:
        self._accounts = accounts
        self._key = key
        self._ended = ended
        # Browsers send a host's cookies to all its ports: two servers must not log each other out.
        self._name = f"sdwebui_session_{hashlib.sha256(key).hexdigest()[:8]}"

    def opened(self, user: str, scope: Scope) -> str:
        """The value of `Set-Cookie` for somebody who has just logged in."""
        expires = int(time.time()) + KEPT_SECONDS
        secret = next(self._accounts.secrets_of(user))
        name = base64.urlsafe_b64encode(user.encode()).decode().rstrip("=")
        id = secrets.token_urlsafe(ID_BYTES)
        return self._cookie(f"{name}.{expires}.{id}.{self._seal(user, expires, id, secret)}", KEPT_SECONDS, scope)

    def closed(self, scope: Scope) -> str:
        """The value of `Set-Cookie` for somebody who logs out: the log-ins that the request carries end."""
        for value in self._sent(scope):
            if self._checked(value) is not None and (parts := _VALUE.fullmatch(value)):
                self._ended.add(parts["id"], int(parts["expires"]))
        return self._cookie("", 0, scope)

    def _cookie(self, value: str, seconds: int, scope: Scope) -> str:
        # Other sites' forms and scripts do not bring it along (Lax), and no script reads it.
        path = scope.get("root_path", "") or "/"
        secure = "; Secure" if scope.get("scheme") in ("https", "wss") else ""
        return f"{self._name}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"

    def user(self, scope: Scope) -> str | None:
        """Whose cookie a request carries; None without a good one."""
        checked = (self._checked(value) for value in self._sent(scope))
        return next((user for user in checked if user is not None), None)

    def _sent(self, scope: Scope) -> Iterator[str]:
        for text in Headers(scope=scope).getlist("cookie"):
            if found := cookie_parser(text).get(self._name):
                yield found

    def _checked(self, value: str) -> str | None:
        parts = _VALUE.fullmatch(value)
        if parts is None or int(parts["expires"]) < time.time():
            return None
        name, expires, id = parts["name"], int(parts["expires"]), parts["id"]
        try:
            user = base64.b64decode(name + "=" * (-len(name) % 4), altchars=b"-_", validate=True).decode()
        except (binascii.Error, ValueError):
            return None
        sealed = [self._seal(user, expires, id, secret) for secret in self._accounts.secrets_of(user)]
        if not any(hmac.compare_digest(parts["seal"], one) for one in sealed):
            return None
        return None if id in self._ended else user

    def _seal(self, user: str, expires: int, id: str, secret: bytes) -> str:
        text = f"{user}\0{expires}\0{id}\0".encode() + hashlib.sha256(secret).digest()
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()


class EndedSessions:
    """Log-ins that ended before they expired: an empty file each, which servers of one data directory share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unwritten: set[str] = set()
        self._forget_expired()

    def __contains__(self, id: str) -> bool:
        return id in self._unwritten or (self._folder / id).exists()

    def add(self, id: str, expires: int) -> None:
        """The file's time says when it has done its work."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = self._folder / id
            file.touch(0o600)
            os.utime(file, (expires, expires))
        except OSError as error:
            log.warning("%s cannot be written (%s); until the program ends the log-out holds", self._folder, error)
            self._unwritten.add(id)

    def _forget_expired(self) -> None:
        now = time.time()
        for file in self._folder.iterdir() if self._folder.is_dir() else ():
            try:
                if file.stat().st_mtime < now:
                    file.unlink(missing_ok=True)
            except OSError as error:
                log.info("%s stays: %s", file, error)


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
