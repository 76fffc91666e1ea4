"""Sends results to the `callback_url` of a request, signed, past the same guard as pictures by URL."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from sdwebui_api.config.flags import Flags
from sdwebui_api.errors import BadRequest, NotFound
from sdwebui_api.storage.net_guard import AllowList, NetGuard, guarded_client

SIGNATURE = "X-Sdwebui-Signature"
TIMESTAMP = "X-Sdwebui-Timestamp"
SECRET_VARIABLE = "CALLBACK_SECRET"
TIMEOUT_SECONDS = 30.0
"""For one attempt, from the name's look-up to the answer's status."""
FIELD = "callback_url"


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """What the receiver computes too: HMAC-SHA256 of `<timestamp>.<body>` in hexadecimal, behind `sha256=`."""
    return "sha256=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class CallbackSender:
    """`secret` None: callbacks carry no signature."""

    def __init__(self, guard: NetGuard, secret: bytes | None = None, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self.guard = guard
        self._secret = secret
        self._timeout = timeout
        self._tls = httpx.create_ssl_context()

    async def check(self, url: object, field: str = FIELD) -> None:
        """For the door that accepts the request. Raises as `NetGuard.check`."""
        await self.guard.check(url, field)

    async def send(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """One POST; the answer's status, redirects included (they are not followed). The answer's body is not read.

        Signed with the time of this attempt. Raises BadRequest for an address that is refused, httpx.HTTPError.
        """
        target = self.guard.parse(url, FIELD)
        sent = {**headers, **self._signed(body)}
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(target, body, sent)
        except TimeoutError:
            raise httpx.ReadTimeout(f"no answer within {self._timeout:g} s") from None

    async def _post(self, target: httpx.URL, body: bytes, headers: Mapping[str, str]) -> int:
        async with (
            guarded_client(self.guard, FIELD, self._tls, self._timeout) as client,
            client.stream("POST", target, content=body, headers=headers) as response,
        ):
            return response.status_code

    def _signed(self, body: bytes) -> dict[str, str]:
        timestamp = str(int(time.time()))
        if self._secret is None:
            return {TIMESTAMP: timestamp}
        return {TIMESTAMP: timestamp, SIGNATURE: signature(self._secret, timestamp, body)}


def callback_sender(flags: Flags, environ: Mapping[str, str] = os.environ) -> CallbackSender:
    """As the command line says; the secret from `--callback-secret-file`, else from CALLBACK_SECRET.

    Raises NotFound when the file cannot be read, BadRequest when it is empty.
    """
    return CallbackSender(NetGuard(AllowList(flags.image_link_allow)), _secret(flags.callback_secret_file, environ))


def _secret(file: str | None, environ: Mapping[str, str]) -> bytes | None:
    if file is None:
        return environ.get(SECRET_VARIABLE, "").encode() or None
    try:
        secret = Path(file).expanduser().read_bytes().strip()
    except OSError as error:
        raise NotFound(f"--callback-secret-file {file} cannot be read: {error.strerror}") from None
    if not secret:
        raise BadRequest(f"--callback-secret-file {file} is empty")
    return secret
