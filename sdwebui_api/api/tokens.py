"""The tokens of `--token` and `--token-file`: who they belong to, read again when the file changes."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from sdwebui_api.errors import BadRequest, NotFound

log = logging.getLogger(__name__)

DEFAULT_USER = "token"
LOOK_SECONDS = 1.0
"""How soon a changed file is noticed."""

Pairs = tuple[tuple[str, bytes], ...]
"""(user, token)"""


class Tokens:
    """(user, token) pairs. The file may be replaced while the server runs: tokens are added and withdrawn that way."""

    def __init__(self, token: str | None, file: str | None) -> None:
        """Raises NotFound and BadRequest for a file that cannot be used."""
        self._fixed: Pairs = ((DEFAULT_USER, token.encode()),) if token else ()
        self._file = Path(file).expanduser() if file else None
        self._state = _state(self._file) if self._file else None
        self._listed = read_tokens(self._file) if self._file else ()
        self._looked = time.monotonic()
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        """Somebody has to be asked."""
        return bool(self._fixed) or self._file is not None

    def pairs(self) -> Pairs:
        if self._file is not None and time.monotonic() - self._looked > LOOK_SECONDS:
            self._look(self._file)
        return self._fixed + self._listed

    def _look(self, file: Path) -> None:
        """A file that cannot be read now changes nothing."""
        with self._lock:
            self._looked = time.monotonic()
            state = _state(file)
            if state is None or state == self._state:
                return
            try:
                self._listed = read_tokens(file)
            except (NotFound, BadRequest) as error:
                log.error("the tokens stay as they were: %s", error.message)
            else:
                log.info("%d tokens in %s", len(self._listed), file)
            self._state = state


def read_tokens(file: Path) -> Pairs:
    """A token per line, or `USER:TOKEN`; empty lines and those that begin with `#` count for nothing.

    Raises NotFound when the file cannot be read, BadRequest when it holds no token or a line that is none.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise NotFound(f"--token-file {file} cannot be read: {error}") from None
    pairs = [_pair(line.strip(), file, number) for number, line in enumerate(lines, 1) if _counts(line)]
    if not pairs:
        raise BadRequest(f"--token-file {file} holds no token")
    return tuple(pairs)


def _counts(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _pair(line: str, file: Path, number: int) -> tuple[str, bytes]:
    user, colon, token = line.partition(":")
    if not colon:
        user, token = DEFAULT_USER, line
    user, token = user.strip(), token.strip()
    if not user or not token or " " in token:
        raise BadRequest(f"--token-file {file}, line {number}: expected TOKEN or USER:TOKEN, without spaces")
    return user, token.encode()


def _state(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
