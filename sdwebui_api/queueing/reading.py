"""`get`: items in answer to a request, which may wait for them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from sdwebui_api.queueing.frames import PROTOBUF, frame_list, json_row
from sdwebui_api.queueing.model import REQUEST_ID, Item
from sdwebui_api.queueing.query import Query
from sdwebui_api.queueing.service import QueueService

T = TypeVar("T")

EARLY_SECONDS = 0.3
"""Answered so long before the timeout: clients give up on the socket after the same time."""
MAX_LENGTH = 1000
"""Items in one answer."""
BELL_SECONDS = 30.0


@dataclass(frozen=True)
class GetOrder:
    queue: str
    group: str
    start: int
    length: int
    timeout: float
    delete: bool
    request_id: str | None
    tags: dict[str, str]

    @classmethod
    def parse(cls, queue: str, group: str, query: Query, *, delete_by_default: bool, single: bool = False) -> GetOrder:
        """`single`: the answer can hold one item only, so no more are removed."""
        tags = dict(query.tags)
        length = min(query.whole("_length_", 1, least=1), MAX_LENGTH)
        return cls(
            queue,
            group,
            query.whole("_index_", 0, least=-1),
            1 if single else length,
            query.seconds("_timeout_"),
            query.flag("_auto_delete_", delete_by_default),
            tags.pop(REQUEST_ID, None),
            tags,
        )

    @property
    def patience(self) -> float:
        return max(self.timeout - EARLY_SECONDS, self.timeout / 2)


async def read_items(service: QueueService, order: GetOrder, request: Request) -> list[Item]:
    """As many items as were asked for, or at the timeout those that are there. Empty also when the client has left:
    nothing is removed for somebody who cannot receive it."""
    if order.timeout <= 0:
        return await _get(service, order, delete=order.delete)
    ends = [asyncio.create_task(hung_up(request.receive)), asyncio.create_task(service.closing.wait())]
    end = time.monotonic() + order.patience
    try:
        seen = await service.store.wait(order.queue, -1, 0)
        while True:
            if found := await _enough(service, order, ends[0]):
                return found
            remaining = end - time.monotonic()
            if remaining <= 0 or any(task.done() for task in ends):
                break
            now = await _unless(service.store.wait(order.queue, seen, min(remaining, BELL_SECONDS)), ends)
            seen = seen if now is None else now
        return [] if ends[0].done() else await _get(service, order, delete=order.delete)
    finally:
        for task in ends:
            task.cancel()


async def _enough(service: QueueService, order: GetOrder, left: asyncio.Task[Any]) -> list[Item]:
    """All that was asked for, or nothing. Several are counted before they are removed."""
    await asyncio.sleep(0)  # the news that the client left may be there already
    if left.done():
        return []
    if order.length > 1 and len(await _get(service, order, delete=False)) < order.length:
        return []
    return await _get(service, order, delete=order.delete)


async def _get(service: QueueService, order: GetOrder, *, delete: bool) -> list[Item]:
    return await service.store.get(
        order.queue,
        start=order.start,
        length=order.length,
        request_id=order.request_id,
        tags=order.tags,
        delete=delete,
        group=order.group,
    )


async def _unless(wanted: Awaitable[T], others: Sequence[asyncio.Task[Any]]) -> T | None:
    """The result of `wanted`, or None as soon as one of the others has ended."""
    task = asyncio.ensure_future(wanted)
    try:
        await asyncio.wait([task, *others], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()


async def hung_up(receive: Receive, message: str = "http.disconnect") -> None:
    """Returns when the client has left. What it sends besides means nothing; pings are the server's business."""
    while (await receive())["type"] != message:
        pass


def answer(items: Sequence[Item], *, accept: str, raw: bool) -> Response:
    """204 without a body when there is nothing: clients index `[0]` into every 200."""
    if not items:
        return Response(status_code=204)
    if PROTOBUF in accept:
        return Response(frame_list(items), media_type=PROTOBUF)
    if raw:
        return Response(items[0].data, media_type="application/octet-stream")
    return Response(json.dumps([json_row(item) for item in items]), media_type="application/json")
