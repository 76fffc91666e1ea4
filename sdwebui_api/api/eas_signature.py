"""`Authorization: EAS <signature>`: how the synchronous EAS clients prove a token without sending it.

The signature is base64 of HMAC-SHA1, key = token, over verb, `Content-MD5`, `Content-Type`, `Date` and path, a line
each. `Date` is the client's local time under the label GMT, so its age says nothing and is not looked at; the body
has to have the MD5 that was signed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

SCHEME = "eas"
DEFAULT_TYPE = "application/octet-stream"


def signed_by(token: bytes, scope: Scope) -> bool:
    """Whether the request's `Authorization` was made with `token`. Compares in constant time."""
    headers = Headers(scope=scope)
    scheme, _, given = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() != SCHEME:
        return False
    given = given.strip()
    return any(
        hmac.compare_digest(given.encode(), _signature(token, scope["method"], headers, path)) for path in _paths(scope)
    )


def _signature(token: bytes, method: str, headers: Headers, path: str) -> bytes:
    lines = (
        method,
        headers.get("content-md5", ""),
        headers.get("content-type", DEFAULT_TYPE),
        headers.get("date", ""),
        path,
    )
    text = "\n".join(lines).strip()
    return base64.b64encode(hmac.new(token, text.encode("utf-8", "replace"), hashlib.sha1).digest())


def _paths(scope: Scope) -> set[str]:
    """As the client wrote it, and decoded; behind a prefix (`--subpath`) also without that."""
    raw = scope.get("raw_path") or scope["path"].encode()
    written = {raw.decode("latin-1"), scope["path"]}
    root = scope.get("root_path", "")
    return written | {path.removeprefix(root) for path in written}


def checked_body(scope: Scope, receive: Receive) -> Receive:
    """`receive`, which raises 401 in place of the last part of a body that is not the signed one."""
    expected = Headers(scope=scope).get("content-md5", "").strip()
    digest = hashlib.md5(usedforsecurity=False)

    async def checked() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            digest.update(message.get("body", b""))
            if not message.get("more_body", False) and not _is(expected, digest.digest()):
                raise HTTPException(401, "Content-MD5 is not that of the body")
        return message

    return checked


def _is(expected: str, digest: bytes) -> bool:
    """The clients write hexadecimal digits, the standard says base64."""
    forms = (digest.hex(), base64.b64encode(digest).decode())
    return any(hmac.compare_digest(expected.encode(), form.encode()) for form in forms)
