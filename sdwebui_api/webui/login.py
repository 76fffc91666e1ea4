"""Who may open the page: `--gradio-auth` and `--gradio-auth-path`, A1111's `user:password` pairs."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from pathlib import Path

from sdwebui_api.config.flags import Flags
from sdwebui_api.errors import BadRequest


def page_login(flags: Flags) -> Callable[[str, str], bool] | None:
    """Says whether a name and a password belong together, in constant time; None: nobody is asked.

    Pairs are separated by commas; the file has lines of them. Raises BadRequest when a flag holds no pair or the file
    cannot be read: an open page is not what was asked for.
    """
    if not flags.gradio_auth and not flags.gradio_auth_path:
        return None
    accounts = [*_pairs(flags.gradio_auth or "", "--gradio-auth"), *_pairs_of_file(flags.gradio_auth_path)]

    def check(name: str, password: str) -> bool:
        given = f"{name}:{password}".encode()
        return any([hmac.compare_digest(given, account) for account in accounts])

    return check


def _pairs(text: str, flag: str) -> list[bytes]:
    entries = [entry.strip() for entry in text.replace("\n", ",").split(",") if entry.strip()]
    if not all(":" in entry for entry in entries):
        raise BadRequest(f"{flag}: expected USER:PASSWORD[,USER:PASSWORD]")
    return [entry.encode() for entry in entries]


def _pairs_of_file(path: str | None) -> list[bytes]:
    if not path:
        return []
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"--gradio-auth-path: {path} cannot be read: {error}") from None
    pairs = _pairs(text, "--gradio-auth-path")
    if not pairs:
        raise BadRequest(f"--gradio-auth-path: {path} holds no USER:PASSWORD")
    return pairs
