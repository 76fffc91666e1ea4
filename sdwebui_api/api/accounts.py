"""Who may log in: the names and passwords of `--api-auth`, `--gradio-auth` and `--gradio-auth-path`, and the tokens."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from pathlib import Path

from sdwebui_api.api.tokens import Tokens
from sdwebui_api.config.flags import Flags
from sdwebui_api.errors import BadRequest

Pair = tuple[str, bytes]
"""(user, `user:password`)"""


class Accounts:
    """Everybody who can log in with the form of the page. `page` and `api` are the pairs of the flags."""

    def __init__(self, flags: Flags, tokens: Tokens) -> None:
        """Raises BadRequest for a flag that holds no pair, or a file that cannot be read."""
        self.page = [*read_pairs(flags.gradio_auth or "", "--gradio-auth"), *_of_file(flags.gradio_auth_path)]
        self.api = [*_api_pairs(flags.api_auth)]
        self.tokens = tokens

    def __bool__(self) -> bool:
        return bool(self.page or self.api or self.tokens)

    def check(self, name: str, password: str) -> str | None:
        """The user; None when they do not belong together. A token is enough by itself. Compares in constant time."""
        given, bare = f"{name}:{password}".encode(), password.encode()
        found = [user for user, pair in (*self.page, *self.api) if hmac.compare_digest(given, pair)]
        found += [
            user for user, token in self.tokens.pairs() if hmac.compare_digest(bare, token) and name in ("", user)
        ]
        return found[0] if found else None

    def secrets_of(self, user: str) -> Iterator[bytes]:
        """What this user may log in with now."""
        yield from (secret for name, secret in (*self.page, *self.api, *self.tokens.pairs()) if name == user)


def _api_pairs(text: str | None) -> Iterator[Pair]:
    for entry in (text or "").split(","):
        if not entry.strip():
            continue
        name, colon, password = (part.strip() for part in entry.partition(":"))
        if not colon:  # not a user whose password is empty
            raise BadRequest("--api-auth: expected USER:PASSWORD[,USER:PASSWORD]")
        yield name, f"{name}:{password}".encode()


def read_pairs(text: str, flag: str) -> list[Pair]:
    """Separated by commas or lines. Raises BadRequest: an open page is not what was asked for."""
    entries = [entry.strip() for entry in text.replace("\n", ",").split(",") if entry.strip()]
    if not all(":" in entry for entry in entries):
        raise BadRequest(f"{flag}: expected USER:PASSWORD[,USER:PASSWORD]")
    return [(entry.partition(":")[0], entry.encode()) for entry in entries]


def _of_file(path: str | None) -> list[Pair]:
    if not path:
        return []
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"--gradio-auth-path: {path} cannot be read: {error}") from None
    pairs = read_pairs(text, "--gradio-auth-path")
    if not pairs:
        raise BadRequest(f"--gradio-auth-path: {path} holds no USER:PASSWORD")
    return pairs
