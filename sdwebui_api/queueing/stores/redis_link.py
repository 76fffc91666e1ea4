"""One connection to Redis that all of this process shares: calls go out as they come, answers come back in order.

Many calls are on their way at once, so the rate does not depend on the round trip. A lost connection is made again, and
what was on its way is sent a second time: every script is written such that this does no harm.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import re
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Any

from redis import exceptions
from redis.asyncio.connection import AbstractConnection, Connection, parse_url

from sdwebui_api.errors import BadRequest
from sdwebui_api.queueing.store import StoreUnavailable

log = logging.getLogger(__name__)

OLDEST = (6, 2)
CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 2.5
"""A server that says nothing for so long is hung. Below the 5 s of the queue's clients."""
PATIENCE = 1.0
"""For how many seconds a call tries to reach Redis, from its begin or from when Redis was last reached."""
MOST_PATIENCE = 3.0
"""For how many seconds a call tries at all, where connections are made and lost again and again."""
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.3

Argument = str | bytes | int | float


def _lua(name: str) -> bytes:
    return files("sdwebui_api.queueing.stores").joinpath("data", f"{name}.lua").read_bytes()


class Script:
    """A Lua script of this package; Redis knows it by its digest once it has seen it."""

    def __init__(self, name: str) -> None:
        self.name = name

    @cached_property
    def common(self) -> bytes:
        """What all scripts begin with."""
        return _lua("common")

    @cached_property
    def source(self) -> bytes:
        return self.common + _lua(self.name)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


def _packed(command: Sequence[Argument]) -> bytes:
    """A command as it is sent."""
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        value = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(value), value))
    return b"".join(parts)


class Lost(Exception):
    """The connection broke, or could not be made. Whether a call was carried out is not known."""


def maker_of_connections(url: str) -> tuple[type[AbstractConnection], dict[str, Any]]:
    """Class and arguments for the connections to `url`. Raises BadRequest for an address that is none."""
    fixed = {"protocol": 2, "socket_timeout": None, "driver_info": None}
    try:
        options: dict[str, Any] = dict(parse_url(url))
        kind = options.pop("connection_class", Connection)
        options = {"socket_connect_timeout": CONNECT_SECONDS, "client_name": "sdwebui", **options, **fixed}
        kind(**options)
    except (ValueError, TypeError, exceptions.RedisError) as error:
        raise BadRequest(f"--queue-url: {error}", field="queue_url") from None
    return kind, options


@dataclass
class _Call:
    answer: asyncio.Future[Any]
    sent: float


@dataclass
class _Session:
    """One life of the connection."""

    connection: AbstractConnection
    run: bytes = b""
    """Number of the database, and run id of the server process: another one after a restart or a failover."""
    waiting: deque[_Call] = field(default_factory=deque)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    loading: dict[str, asyncio.Future[Any]] = field(default_factory=dict)
    """Of scripts that are being sent, by digest."""
    broken: Exception | None = None

    async def send(self, *command: Argument) -> Any:
        """The answer. Raises Lost, or what Redis answered as an error."""
        if self.broken or not self.connection.is_connected:
            self.fail(self.broken or Lost("the connection was closed"))
            raise Lost(str(self.broken))
        call = _Call(asyncio.get_running_loop().create_future(), time.monotonic())
        # No await between these: answers come in the order of the writes.
        self.waiting.append(call)
        try:
            await self.connection.send_packed_command(_packed(command), check_health=False)
        except (exceptions.RedisError, OSError) as error:
            self.fail(error)
        return await call.answer

    async def load(self, script: Script) -> None:
        """Sends a script that the server does not know; once for all calls that found that out together."""
        loading = self.loading.get(script.digest)
        if loading is None:
            loading = asyncio.ensure_future(self.send("SCRIPT", "LOAD", script.source))
            self.loading[script.digest] = loading
            loading.add_done_callback(lambda _: self.loading.pop(script.digest, None))
        await asyncio.shield(loading)

    async def read(self) -> None:
        """Hands each answer to the call that waits for it, until the connection ends."""
        while not self.broken:
            try:
                answer = await self.connection.read_response(timeout=math.inf, disconnect_on_error=False)
            except exceptions.ResponseError as error:
                answer = error
            except (exceptions.RedisError, OSError, EOFError) as error:
                self.fail(error)
                return
            call = self.waiting.popleft()
            if call.answer.done():
                continue  # cancelled
            if isinstance(answer, Exception):
                call.answer.set_exception(answer)
            else:
                call.answer.set_result(answer)

    async def watch(self) -> None:
        """Ends a connection whose server is hung. Looks twice: this process itself may have been stopped."""
        overdue = None
        while not self.broken:
            await asyncio.sleep(ANSWER_SECONDS / 5)
            oldest = self.waiting[0] if self.waiting else None
            late = oldest is not None and time.monotonic() - oldest.sent > ANSWER_SECONDS * 0.8
            if late and oldest is overdue:
                self.fail(TimeoutError(f"no answer for {ANSWER_SECONDS:g} s"))
            overdue = oldest if late else None

    def fail(self, error: Exception) -> None:
        """Everything that waits learns that the connection is lost."""
        self.broken = self.broken or error
        while self.waiting:
            call = self.waiting.popleft()
            if not call.answer.done():
                call.answer.set_exception(Lost(str(error)))

    async def close(self) -> None:
        self.fail(Lost("closed"))
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        with suppress(exceptions.RedisError, OSError):
            await self.connection.disconnect(nowait=True)


class Link:
    """Calls scripts on the Redis at `url`; reconnects by itself."""

    def __init__(self, url: str) -> None:
        self._kind, self._options = maker_of_connections(url)
        self._seed = dict(self._options)
        self._session: _Session | None = None
        self._connecting: asyncio.Task[_Session] | None = None
        self._closed = False
        self._reached = 0.0
        """When a connection was last made (`time.monotonic`)."""
        self.warned: set[str] = set()

    async def call(self, script: Script, keys: Sequence[str], *args: Argument) -> Any:
        """The script's answer. ARGV[1] is the server's run id, `args` follow. Raises StoreUnavailable about a second
        after Redis was last reached (2.5 s when Redis hangs)."""
        return await self._persist(lambda session: _evaluate(session, script, keys, args))

    async def command(self, *command: Argument) -> Any:
        """The same for a plain command."""
        return await self._persist(lambda session: session.send(*command))

    async def close(self) -> None:
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._session is not None:
            await self._session.close()

    async def _persist(self, act: Any) -> Any:
        begun, pause = time.monotonic(), FIRST_PAUSE
        while True:
            try:
                return await act(await self._connected())
            except (Lost, exceptions.ConnectionError, exceptions.TimeoutError) as error:
                reason: Exception = error
            except exceptions.MovedError as error:
                self._follow(error)
                reason = error
            except (exceptions.TryAgainError, exceptions.ClusterDownError, exceptions.MasterDownError) as error:
                reason = error
            except exceptions.RedisError as error:
                if "READONLY" not in str(error):
                    raise StoreUnavailable(f"Redis refused: {error}") from error
                await self._drop()  # this server is a replica now
                reason = error
            give_up = min(max(begun, self._reached) + PATIENCE, begun + MOST_PATIENCE)
            if self._closed or time.monotonic() + pause > give_up:
                raise StoreUnavailable(f"the queue's Redis cannot be reached: {reason}") from reason
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _connected(self) -> _Session:
        """The live session. One attempt to connect serves all who wait for it."""
        if self._session is not None and not self._session.broken:
            return self._session
        if self._closed:
            raise Lost("the store is closed")
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> _Session:
        await self._drop()
        connection = self._kind(**self._options)
        session = _Session(connection)
        try:
            async with asyncio.timeout(2 * CONNECT_SECONDS):
                await connection.connect()
                session.tasks.append(asyncio.create_task(session.read()))
                run_id = self._inspect(await _info(session))
                session.run = b"%d/%s" % (int(connection.db), run_id)
        except (exceptions.ConnectionError, TimeoutError, OSError, exceptions.TimeoutError) as error:
            await session.close()
            self._options = dict(self._seed)
            raise Lost(str(error) or "no answer") from error
        except BaseException:
            await session.close()
            raise
        session.tasks.append(asyncio.create_task(session.watch()))
        self._session, self._reached = session, time.monotonic()
        return session

    async def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _follow(self, moved: exceptions.MovedError) -> None:
        """Redis Cluster: all keys of one service live on one node, which this connection then goes to."""
        self._options = {**self._seed, "host": moved.host, "port": moved.port}
        if self._session is not None:
            self._session.fail(moved)

    def _inspect(self, info: bytes) -> bytes:
        """The run id. Warns of settings under which acknowledged requests can be lost; raises StoreUnavailable when
        this Redis is too old."""
        facts = dict(re.findall(rb"^(\w+):(.*?)\r?$", info, re.MULTILINE))
        version = facts.get(b"redis_version", b"").decode()
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers and numbers < OLDEST:
            raise StoreUnavailable(f"Redis {version} is too old for the queue; 6.2 or newer is needed")
        if facts.get(b"aof_enabled") == b"0":
            self._warn("Redis writes no AOF (appendonly no): a restart of Redis loses acknowledged requests")
        policy = facts.get(b"maxmemory_policy", b"noeviction").decode()
        if facts.get(b"maxmemory", b"0") != b"0" and policy != "noeviction":
            self._warn(f"Redis may evict the queue's keys (maxmemory-policy {policy}); set it to noeviction")
        return facts.get(b"run_id", b"")

    def _warn(self, text: str) -> None:
        if text not in self.warned:
            self.warned.add(text)
            log.warning("%s. See docs/redis.md.", text)


async def _evaluate(session: _Session, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
    rest = (script.digest, len(keys), *keys, session.run, *args)
    while True:
        try:
            return await session.send("EVALSHA", *rest)
        except exceptions.NoScriptError:
            await session.load(script)


async def _info(session: _Session) -> bytes:
    """What the server says about itself; nothing where that is forbidden."""
    try:
        return bytes(await session.send("INFO"))
    except exceptions.ResponseError as error:
        if isinstance(error, exceptions.NoPermissionError) or "unknown command" in str(error):
            return b""
        raise
