"""An object store on a free port that checks every signature, and fails when it is told to.

The signatures are computed here from what the vendors publish, not with their packages: OSS version 1 (header and
URL), OSS version 4 (header and URL), AWS version 4 (header and URL).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit

KEY_ID, SECRET, TOKEN = "test-key-id", "test-secret", "test-session-token"
BUCKET = "pictures"

Fault = Literal["timeout", "503", "truncated", "reset", "lost answer", "damaged", "403", "wrong answer"]


@dataclass
class ObjectServer:
    """`objects`: key → bytes. `faults`: what goes wrong with the next PUTs and GETs, one each, first first."""

    url: str
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: deque[Fault] = field(default_factory=deque)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, key, how it was signed or why it was refused)."""
    content_types: dict[str, str] = field(default_factory=dict)
    public: bool = False
    """Reading needs no signature."""
    token: str = ""
    """The session token that requests must carry and sign."""
    slow: float = 3.0
    """Seconds of a `timeout`."""


@dataclass(frozen=True)
class _Call:
    method: str
    path: str
    """As sent, percent-encoded."""
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]

    @property
    def parameters(self) -> dict[str, str]:
        return dict(self.query)

    @property
    def bucket(self) -> str:
        return unquote(self.path).lstrip("/").partition("/")[0]

    @property
    def key(self) -> str:
        return unquote(self.path).lstrip("/").partition("/")[2]


@contextmanager
def object_server() -> Iterator[ObjectServer]:
    class Handler(_Handler):
        pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    server = ObjectServer(f"http://127.0.0.1:{listener.server_address[1]}")
    Handler.store = server
    thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()


class _Handler(BaseHTTPRequestHandler):
    store: ObjectServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Tests look at `requests` instead."""

    def do_PUT(self) -> None:
        call = self._call()
        fault = self.store.faults.popleft() if self.store.faults else None
        if fault == "reset":
            self.connection.close()
            self.close_connection = True
            return
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._allowed(call) or self._failed(fault):
            return
        if fault == "damaged":
            data = bytes([data[0] ^ 1]) + data[1:]
        if fault == "truncated":
            data = data[: len(data) // 2]
        elif base64.b64encode(hashlib.md5(data).digest()).decode() != self.headers.get("Content-MD5"):
            self._refuse(400, "InvalidDigest")
            return
        self.store.objects[call.key] = data
        self.store.content_types[call.key] = self.headers.get("Content-Type", "")
        if fault == "lost answer":
            self.close_connection = True
            return
        told = b"other bytes" if fault == "wrong answer" else data
        self._answer(200, b"", {"ETag": f'"{hashlib.md5(told).hexdigest().upper()}"', **_crc(told)})

    def do_GET(self) -> None:
        call = self._call()
        fault = self.store.faults.popleft() if self.store.faults else None
        if (not self.store.public and not self._allowed(call)) or self._failed(fault):
            return
        data = self.store.objects.get(call.key)
        if data is None:
            self._refuse(404, "NoSuchKey")
        elif fault == "truncated":
            self._answer(200, data, {}, sent=data[: len(data) // 2])
            self.close_connection = True
        else:
            self._answer(200, data, {"ETag": f'"{hashlib.md5(data).hexdigest().upper()}"'})

    def _call(self) -> _Call:
        split = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        return _Call(self.command, split.path, tuple(parse_qsl(split.query, keep_blank_values=True)), headers)

    def _allowed(self, call: _Call) -> bool:
        problem = "NoSuchBucket" if call.bucket != BUCKET else check_signature(call, self.store.token)
        self.store.requests.append((call.method, call.key, problem))
        if problem.startswith("signed "):
            return True
        self._refuse(404 if problem == "NoSuchBucket" else 403, problem)
        return False

    def _failed(self, fault: Fault | None) -> bool:
        if fault == "timeout":
            time.sleep(self.store.slow)
            self.close_connection = True
        elif fault == "503":
            self._refuse(503, "ServiceUnavailable")
        elif fault == "403":
            self._refuse(403, "AccessDenied")
        return fault in ("timeout", "503", "403")

    def _refuse(self, status: int, code: str) -> None:
        body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>as told</Message></Error>'.encode()
        self._answer(status, body, {"Content-Type": "application/xml"})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str], sent: bytes | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "x-oss-request-id": "1", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if sent is None else sent)


# -- signatures ------------------------------------------------------------------------------------------------------


def check_signature(call: _Call, token: str) -> str:
    """`signed <how>`, or the code of the refusal."""
    authorization = call.headers.get("authorization", "")
    for prefix, how, check in (
        ("OSS ", "oss v1", _oss1_header),
        ("OSS4-HMAC-SHA256 ", "oss v4", _oss4_header),
        ("AWS4-HMAC-SHA256 ", "aws v4", _aws4_header),
    ):
        if authorization.startswith(prefix):
            return f"signed {how}" if check(call, authorization, token) else "SignatureDoesNotMatch"
    for parameter, how, check in (
        ("Signature", "oss v1 url", _oss1_url),
        ("x-oss-signature", "oss v4 url", _oss4_url),
        ("X-Amz-Signature", "aws v4 url", _aws4_url),
    ):
        if parameter in call.parameters:
            return f"signed {how}" if check(call, token) else "SignatureDoesNotMatch"
    return "AccessDenied"


def _oss1(call: _Call, date: str) -> str:
    """Of OSS's "Include a V1 signature in the Authorization header"."""
    own = sorted((name, value) for name, value in call.headers.items() if name.startswith("x-oss-"))
    signed_parameters = [(name, value) for name, value in call.query if name == "security-token"]
    resource = f"/{call.bucket}/{call.key}" + ("?" if signed_parameters else "")
    resource += "&".join(f"{name}={value}" for name, value in signed_parameters)
    lines = [call.method, call.headers.get("content-md5", ""), call.headers.get("content-type", ""), date]
    text = "\n".join([*lines, "".join(f"{name}:{value}\n" for name, value in own) + resource])
    return base64.b64encode(hmac.new(SECRET.encode(), text.encode(), hashlib.sha1).digest()).decode()


def _oss1_header(call: _Call, authorization: str, token: str) -> bool:
    right_token = call.headers.get("x-oss-security-token", "") == token
    return right_token and authorization == f"OSS {KEY_ID}:{_oss1(call, call.headers.get('date', ''))}"


def _oss1_url(call: _Call, token: str) -> bool:
    given = call.parameters
    fresh = int(given["Expires"]) > time.time()
    right = given["OSSAccessKeyId"] == KEY_ID and given.get("security-token", "") == token
    return fresh and right and given["Signature"] == _oss1(call, given["Expires"])


def _v4_query(call: _Call, left_out: str) -> str:
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in call.query)
    return "&".join(
        f"{name}={value}" if value or left_out.startswith("X") else name for name, value in pairs if name != left_out
    )


def _v4_signature(scheme: str, start: str, scope: str, moment: str, canonical: str) -> str:
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"{start}{SECRET}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, f"{scheme}\n{moment}\n{scope}\n{digest}".encode(), hashlib.sha256).hexdigest()


def _oss4(call: _Call, scope: str, moment: str, payload: str) -> str:
    signed = sorted(
        (name, value)
        for name, value in call.headers.items()
        if name.startswith("x-oss-") or name in ("content-type", "content-md5")
    )
    path = quote(f"/{call.bucket}/{call.key}", safe="-_.~/")
    headers = "".join(f"{name}:{value}\n" for name, value in signed)
    canonical = "\n".join([call.method, path, _v4_query(call, "x-oss-signature"), headers, "", payload])
    return _v4_signature("OSS4-HMAC-SHA256", "aliyun_v4", scope, moment, canonical)


def _oss4_header(call: _Call, authorization: str, token: str) -> bool:
    given = dict(part.strip().split("=", 1) for part in authorization.partition(" ")[2].split(","))
    key_id, _, scope = given["Credential"].partition("/")
    right = key_id == KEY_ID and scope.endswith("/oss/aliyun_v4_request")
    right = right and call.headers.get("x-oss-security-token", "") == token
    wanted = _oss4(call, scope, call.headers["x-oss-date"], call.headers["x-oss-content-sha256"])
    return right and given["Signature"] == wanted


def _oss4_url(call: _Call, token: str) -> bool:
    given = call.parameters
    key_id, _, scope = given["x-oss-credential"].partition("/")
    right = key_id == KEY_ID and given.get("x-oss-security-token", "") == token
    return right and given["x-oss-signature"] == _oss4(call, scope, given["x-oss-date"], "UNSIGNED-PAYLOAD")


def _aws4(call: _Call, names: str, scope: str, moment: str, payload: str) -> str:
    headers = "".join(f"{name}:{call.headers[name]}\n" for name in names.split(";"))
    lines = [call.method, call.path, _v4_query(call, "X-Amz-Signature"), headers, names, payload]
    return _v4_signature("AWS4-HMAC-SHA256", "AWS4", scope, moment, "\n".join(lines))


def _aws4_header(call: _Call, authorization: str, token: str) -> bool:
    given = dict(part.strip().split("=", 1) for part in authorization.partition(" ")[2].split(","))
    key_id, _, scope = given["Credential"].partition("/")
    payload, moment = call.headers["x-amz-content-sha256"], call.headers["x-amz-date"]
    return key_id == KEY_ID and given["Signature"] == _aws4(call, given["SignedHeaders"], scope, moment, payload)


def _aws4_url(call: _Call, token: str) -> bool:
    given = call.parameters
    key_id, _, scope = given["X-Amz-Credential"].partition("/")
    names, moment = given["X-Amz-SignedHeaders"], given["X-Amz-Date"]
    return key_id == KEY_ID and given["X-Amz-Signature"] == _aws4(call, names, scope, moment, "UNSIGNED-PAYLOAD")


# -- checksums -------------------------------------------------------------------------------------------------------


def _crc(data: bytes) -> dict[str, str]:
    """OSS's CRC-64/XZ of the bytes."""
    crc = 2**64 - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xC96C5795D7870F42 if crc & 1 else 0)
    return {"x-oss-hash-crc64ecma": str(crc ^ (2**64 - 1))}
