"""Web servers that requests name by URL: good ones, hostile ones, and names that resolve as a test says."""

from __future__ import annotations

import gzip
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from sdwebui_api.storage.net_guard import Resolve

COLOUR = (200, 30, 60)


def png(size: tuple[int, int] = (16, 16), colour: tuple[int, int, int] = COLOUR) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


class Host:
    """A server on a free port of this machine; `hits` are the paths that were asked for."""

    def __init__(self) -> None:
        self.hits: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {"/ok.png": _file(png()), **_HOSTILE}
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                host.hits.append(self.path)
                host.headers.append(dict(self.headers))
                page = host.pages.get(urlsplit(self.path).path, _status(404))
                self.close_connection = True
                try:
                    page(self)
                except OSError:
                    self.close_connection = True  # the client has had enough

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def running_host() -> Iterator[Host]:
    host = Host()
    try:
        yield host
    finally:
        host.close()


@contextmanager
def raw_host(answer: bytes) -> Iterator[int]:
    """A port where every connection gets these bytes, whatever it asks, and is closed."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(60)


class Names:
    """Name → its addresses; a list of lists is one answer after the other, the last one again and again.

    Other names are looked up as the server does it.
    """

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): list(rows) for name, rows in answers.items()}
        self.asked: list[str] = []
        self._system = Resolve()

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        rows = self.answers.get(host.rstrip("."))
        if rows is None:
            return await self._system(host, port)
        return rows.pop(0) if len(rows) > 1 else rows[0]


def _answer(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes = b"") -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def _file(body: bytes, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: _answer(handler, 200, named, body)


def _status(status: int) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: _answer(handler, status, {})


def _redirect(handler: BaseHTTPRequestHandler) -> None:
    """To `?to=`, with the status `?status=`."""
    query = parse_qs(urlsplit(handler.path).query)
    _answer(handler, int(query.get("status", ["302"])[0]), {"Location": query["to"][0]})


def _endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")


def _drip(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then: every read succeeds in time, the whole never ends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while True:
        handler.wfile.write(b"\x89")
        time.sleep(0.05)


def _drip_headers(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(10_000):
        handler.wfile.write(b"X-%d: y\r\n" % number)
        time.sleep(0.05)


def _endless_headers(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"X-Header: " + b"y" * 8000 + b"\r\n")


def _informational(handler: BaseHTTPRequestHandler) -> None:
    while True:
        handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        time.sleep(0.01)


def _silent(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(60)


def _truncated(handler: BaseHTTPRequestHandler) -> None:
    _answer(handler, 200, {"Content-Length": "100000"}, png())


def _loop(handler: BaseHTTPRequestHandler) -> None:
    _answer(handler, 302, {"Location": handler.path})


def _claiming(width: int, height: int) -> bytes:
    """A small PNG whose header says it is huge."""
    import struct
    import zlib

    data = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = b"IHDR" + data
    real = png()
    return real[:8] + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + real[33:]


_HOSTILE: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {
    "/redirect": _redirect,
    "/loop": _loop,
    "/endless": _endless,
    "/drip": _drip,
    "/drip-headers": _drip_headers,
    "/endless-headers": _endless_headers,
    "/informational": _informational,
    "/silent": _silent,
    "/truncated": _truncated,
    "/large-announced": _file(b"", Content_Length=str(10**12)),
    "/large": _file(bytes(3 * 2**20)),
    "/gzip": _file(gzip.compress(bytes(50 * 2**20)), Content_Encoding="gzip"),
    "/deflate-transfer": _file(b"", Transfer_Encoding="gzip, chunked"),
    "/pixels.png": _file(_claiming(60_000, 60_000)),
    "/page.html": _file(b"<html>secret</html>", Content_Type="text/html"),
    "/empty": _file(b""),
    "/svg": _file(b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
    "/no-location": _status(302),
    "/404": _status(404),
    "/500": _status(500),
}
