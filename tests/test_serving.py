"""uvicorn as this program configures it, over a real socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sdwebui_api.config.flags import parse_flags
from sdwebui_api.serving import Server, server_config

BODY = b'{"prompt": "a\\r\\n"}\r\nUpgrade: h2c\r\n'
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\nUpgrade: h2c\r\n"
"""As Java's HttpClient writes it."""


async def echo(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    opened = threading.Event()
    server = Server(server_config(echo, parse_flags(["--port", "0"], {})), opened.set, lambda: None)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert opened.wait(20)
    yield server.open_port
    server.should_exit = True
    thread.join(20)


@pytest.mark.parametrize("pause", [None, "\r\n\r\n", "Content"])
def test_an_offer_of_http2_costs_no_body(port: int, pause: str | None) -> None:
    """Also when head and body, or two parts of a head, come one after the other; and again on the same connection."""
    request = b"POST / HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (OFFER, len(BODY), BODY)
    cut = len(request) if pause is None else request.index(pause.encode()) + len(pause)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            for part in filter(None, (request[:cut], request[cut:])):
                connection.sendall(part)
                if cut < len(request):
                    threading.Event().wait(0.05)
            answer = b""
            while not answer.endswith(BODY):
                received = connection.recv(65536)
                assert received, answer
                answer += received
            assert answer.startswith(b"HTTP/1.1 200 ")
