"""uvicorn as this house runs it: no surprises in HTTP and WebSockets, dead peers noticed, watchers told of the end."""

from __future__ import annotations

import os
import re
import socket
import threading
import webbrowser
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from sdwebui_api.config.flags import Flags

PING_SECONDS = 10.0
SILENT_SECONDS = 20.0
"""After an unanswered ping: then a peer of which nothing was heard is dead."""
MAX_MESSAGE_BYTES = 2**20
"""Clients of the queue send nothing but pings."""
GRACE_SECONDS = 10
RESTARTED = "SDWEBUI_API_RESTARTED"
"""In the environment of a program that replaced itself."""


_OTHER_PROTOCOL = re.compile(rb"\r\nupgrade:(?![ \t]*websocket)[^\r\n]*", re.IGNORECASE)
"""A header that offers to speak something else from here on."""


class PlainHttp(HttpToolsProtocol):
    """Answers in HTTP/1.1 whoever offers another protocol, as the standard has it.

    Java's HttpClient offers HTTP/2 with its requests (`Upgrade: h2c`), `curl --http2` too. The parser takes what
    follows such a head for the other protocol's: the body was lost, and every POST a 422.
    """

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or not self.cycle.more_body:  # a head, or a part of one; never a body
            head, end, body = data.partition(b"\r\n\r\n")
            data = _OTHER_PROTOCOL.sub(b"", head) + end + body
        super().data_received(data)


class PatientWebSocket(WebSocketsSansIOProtocol):
    """A peer lives while anything at all comes from it.

    The Python SDK answers pings only while its user asks for the next item, but sends its own from a thread: a client
    that takes minutes over an item must not lose it.
    """

    _heard = 0.0

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        super().data_received(data)

    def keepalive_timeout(self) -> None:
        if self.ping_timeout is not None and self.loop.time() - self._heard < self.ping_timeout:
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()
        # What is still to be sent will never arrive; a close that waits for it would hold the client's items.
        self.transport.abort()


def server_config(app: Any, flags: Flags) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=flags.host,
        port=flags.port,
        ssl_keyfile=flags.tls_keyfile,
        ssl_certfile=flags.tls_certfile,
        timeout_keep_alive=flags.timeout_keep_alive,
        timeout_graceful_shutdown=GRACE_SECONDS,
        http=PlainHttp,
        ws=PatientWebSocket,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=SILENT_SECONDS,
        ws_per_message_deflate=False,  # the Go client does not survive an extension it did not ask for
        log_config=None,
        access_log=False,
        server_header=False,
        # Whom a user's header is believed is a question of who connects, not of what they say of others before them.
        proxy_headers=not flags.cluster,
    )


class Server(uvicorn.Server):
    """`on_open` is called when the port is open; `on_closing` on the event loop, in the same turn in which the port
    closes: what waits for a long time (watchers) ends, and its clients cannot come back to a server that is leaving."""

    def __init__(self, config: uvicorn.Config, on_open: Callable[[], None], on_closing: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_open = on_open
        self._on_closing = on_closing

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            for server in self.servers:
                for listener in server.sockets:
                    _notice_dead_peers(listener)
            self._on_open()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """An orderly stop is a success; uvicorn would let the signal kill the process in the end. A second one does."""
        if self.should_exit or self.force_exit:
            self.force_exit = True
            super().handle_exit(sig, frame)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_closing()
        await super().shutdown(sockets=sockets)

    @property
    def open_port(self) -> int:
        """The one that was taken, also when any was asked for."""
        return int(self.servers[0].sockets[0].getsockname()[1]) if self.servers else self.config.port


def _notice_dead_peers(listener: Any) -> None:
    """Accepted connections inherit it (on Linux): after some 30 s of silence the kernel asks, then gives up. The stream
    form of watching has no pings."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def announce(flags: Flags, server: Server, hint: str) -> None:
    """The line that says where the server is."""
    print(f"Running on {address(flags, server)} ({hint})", flush=True)


def address(flags: Flags, server: Server) -> str:
    """As a browser on this machine would open it."""
    scheme = "https" if flags.tls_certfile else "http"
    subpath = f"/{flags.subpath.strip('/')}" if flags.subpath else ""
    host = "127.0.0.1" if flags.host in ("0.0.0.0", "::") else flags.host
    return f"{scheme}://{host}:{server.open_port}{subpath}"


def open_browser(flags: Flags, server: Server) -> None:
    """`--autolaunch`, where there is a page; a restarted program leaves the browser to its open page."""
    if flags.autolaunch and not flags.nowebui and RESTARTED not in os.environ:
        # Some browsers keep their caller until they are closed.
        threading.Thread(target=webbrowser.open, args=(address(flags, server),), name="browser", daemon=True).start()
