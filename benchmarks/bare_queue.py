"""The peer of `benchmarks.queue`: one XADD per put and one XREADGROUP loop per watcher, and nothing else.

`app` serves that over HTTP, `loop` runs it without. No request ids, priorities, leases or records are kept.

    REDIS_URL=redis://… python -m benchmarks.bare_queue PORT
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid

import uvicorn
from redis.asyncio import BlockingConnectionPool, Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

STREAM = "bare"
GROUP = "eas"


def connect(url: str) -> Redis:
    return Redis.from_pool(BlockingConnectionPool.from_url(url, max_connections=64))


async def join(redis: Redis) -> str:
    """A new consumer of what comes from now on, in a group of its own."""
    name = uuid.uuid4().hex
    await redis.xgroup_create(STREAM, name, id="$", mkstream=True)
    return name


async def read(redis: Redis, group: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """At most 32 new entries; waits a second for the first."""
    found = await redis.xreadgroup(group, "u", {STREAM: ">"}, count=32, block=1000)
    return found[0][1] if found else []  # type: ignore[index]


def app(redis: Redis) -> Starlette:
    async def put(request: Request) -> PlainTextResponse:
        index = await redis.xadd(STREAM, {"data": await request.body()})
        return PlainTextResponse(index)

    async def watch(socket: WebSocket) -> None:
        group = await join(redis)
        await socket.accept()
        sending = asyncio.create_task(send_all(socket, group))
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass
        sending.cancel()
        await redis.xgroup_destroy(STREAM, group)

    async def send_all(socket: WebSocket, group: str) -> None:
        while True:
            entries = await read(redis, group)
            for _, fields in entries:
                await socket.send_bytes(fields[b"data"])
            if entries:
                await redis.xack(STREAM, group, *(index for index, _ in entries))

    return Starlette(routes=[Route("/put", put, methods=["POST"]), WebSocketRoute("/watch", watch)])


async def loop(url: str, clients: int, puts: int, body: bytes) -> float:
    """Puts per second by `clients` tasks while one consumer reads and acknowledges, all in this process."""
    redis = connect(url)
    group = await join(redis)

    async def consume() -> None:
        left = puts
        while left > 0:
            entries = await read(redis, group)
            left -= len(entries)
            if entries:
                await redis.xack(STREAM, group, *(index for index, _ in entries))

    async def client() -> None:
        for _ in range(puts // clients):
            await redis.xadd(STREAM, {"data": body})

    consumer = asyncio.create_task(consume())
    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - begin
    await consumer
    await redis.xgroup_destroy(STREAM, group)
    await redis.aclose()
    return puts / seconds


if __name__ == "__main__":
    uvicorn.run(
        app(connect(os.environ["REDIS_URL"])), port=int(sys.argv[1]), log_level="warning", ws_per_message_deflate=False
    )
