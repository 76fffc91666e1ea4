"""A real redis-server for tests: durable (AOF, fsync always), on a free port, to be killed and started again."""

from __future__ import annotations

import atexit
import functools
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pytest

START_SECONDS = 90.0


def redis_is_installed() -> bool:
    return shutil.which("redis-server") is not None


def free_port() -> int:
    """Below those that systems give to connections: of these one may be taken while nobody listens on it, by a client
    of another test or even by one that tries to reach the very server that is to start there."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """One server process over `folder`. `with` starts and ends it; `kill` and `start` in between as wanted."""

    def __init__(self, folder: Path, **options: str) -> None:
        """`options` are redis-server's own, with `_` for `-`."""
        self.folder = folder
        self.port = free_port()
        self._options = {"appendonly": "yes", "appendfsync": "always", "save": "", **options}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when it answers, its data loaded."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        for name, value in self._options.items():
            command += [f"--{name.replace('_', '-')}", value]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while self.ask("PING") not in (b"+PONG", b"-NOAUTH Authentication required."):
            assert self._process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It hangs: connections stay, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ask(self, *command: str) -> bytes:
        """The first line of the answer to a plain command; empty when the server cannot be reached."""
        try:
            with self._asking(command) as connection:
                return connection.recv(65536).partition(b"\r\n")[0]
        except OSError:
            return b""

    def ask_all(self, *command: str) -> bytes:
        """The answer as it comes over the wire."""
        answer = b""
        with self._asking(command) as connection:
            connection.sendall(b"*2\r\n$4\r\nECHO\r\n$7\r\nthe end\r\n")
            while not answer.endswith(b"$7\r\nthe end\r\n"):
                data = connection.recv(65536)
                assert data, "Redis closed the connection"
                answer += data
        return answer.removesuffix(b"$7\r\nthe end\r\n")

    def _asking(self, command: tuple[str, ...]) -> socket.socket:
        packed = f"*{len(command)}\r\n" + "".join(f"${len(part.encode())}\r\n{part}\r\n" for part in command)
        connection = socket.create_connection(("127.0.0.1", self.port), 20)
        connection.sendall(packed.encode())
        return connection

    def log(self) -> str:
        return (self.folder / "redis.log").read_text(errors="replace")

    def __enter__(self) -> RedisServer:
        if not redis_is_installed():
            pytest.skip("redis-server is not installed")
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


@functools.cache
def shared_redis() -> RedisServer:
    """One server for all tests of this process that do not harm it; FLUSHALL before use."""
    if not redis_is_installed():
        pytest.skip("redis-server is not installed")
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    server = RedisServer(folder)
    server.start()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    return server
