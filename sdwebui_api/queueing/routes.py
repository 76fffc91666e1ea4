"""The queue service over HTTP: `/api/predict/<service>[/<sub-path>]` and `…/sink`, dispatched on verb and query.

Errors are raised; the application that these routes are part of turns them into answers.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from sdwebui_api.errors import BadRequest, NotFound, PayloadTooLarge
from sdwebui_api.queueing.attributes import attributes_of
from sdwebui_api.queueing.call import CALLBACK_URL, USER, queued_call
from sdwebui_api.queueing.frames import PROTOBUF, attribute_list
from sdwebui_api.queueing.identity import (
    REQUEST_ID_HEADER,
    Identity,
    identity_of,
    is_rear,
    priority_of,
    request_id_of,
)
from sdwebui_api.queueing.model import REQUEST_ID, NewItem, sink_of
from sdwebui_api.queueing.outcome import rejected
from sdwebui_api.queueing.query import Query
from sdwebui_api.queueing.reading import GetOrder, answer, read_items
from sdwebui_api.queueing.service import QueueService
from sdwebui_api.queueing.watch import WatchOrder, WatchStream, watch_websocket

log = logging.getLogger(__name__)

PREFIX = "/api/predict"
DISCOVERY = "/api/v1/servicediscovery/upstreams"
NO_FAULT = "Shutdown"
"""The code of a negative commit that does not count as a failed delivery."""
MAX_FORM_BYTES = 64 * 1024

CheckCallback = Callable[[str, str], Awaitable[None]]
"""(address, name of the parameter) → nothing, or BadRequest."""


@dataclass(frozen=True)
class Call:
    """One request, read as far as its address and headers go."""

    queue: str
    path: str
    """Below the service's address, empty for a sink."""
    query: Query
    identity: Identity
    request: Request

    @property
    def accept(self) -> str:
        return self.request.headers.get("accept", "")


Operation = Callable[[Call], Awaitable[Response]]


def queue_routes(
    service: QueueService, check_callback: CheckCallback | None = None, *, per_user: bool = False
) -> list[BaseRoute]:
    """`check_callback` looks at the address in `_callback_url_` when an item is put. `per_user`: callers put requests
    and read their own results, and nothing else of the queue, which belongs to all."""
    door = QueueDoor(service, check_callback, per_user=per_user)
    methods = ["GET", "POST", "PUT", "DELETE"]
    paths = (f"{PREFIX}/{{service}}", f"{PREFIX}/{{service}}/{{path:path}}")
    return [
        *(Route(path, door.http, methods=methods, include_in_schema=False) for path in paths),
        *(WebSocketRoute(path, door.websocket) for path in paths),
        Route(f"{DISCOVERY}/{{service}}", door.upstreams, include_in_schema=False),
    ]


class QueueDoor:
    def __init__(self, service: QueueService, check_callback: CheckCallback | None, *, per_user: bool = False) -> None:
        self._per_user = per_user
        self._service = service
        self._check_callback = check_callback

    # -- dispatch ------------------------------------------------------------------------------------

    async def http(self, request: Request) -> Response:
        if queued_call(request.scope) is not None:
            raise BadRequest("/api/predict/… is the queue itself and cannot be queued", status=405)
        if request.method == "HEAD":
            self._check_service(request)
            return Response()
        queue, path, query, identity = self._read(request)
        operation, call = self._operation(request.method, query), Call(queue, path, query, identity, request)
        return await operation(self._own(call, operation) if self._per_user else call)

    def _own(self, call: Call, operation: Operation) -> Call:
        """The same, confined to what the caller has put. Raises BadRequest (403)."""
        if operation == self._put and call.queue == self._service.name:
            return call
        user = getattr(call.request.state, "user", None)
        if user is None or operation not in (self._get, self._count) or call.queue != sink_of(self._service.name):
            raise BadRequest("With --cluster a user may put requests and get or count the own results", status=403)
        return replace(call, query=replace(call.query, tags={**call.query.tags, USER: user}))

    def _operation(self, method: str, query: Query) -> Operation:
        if method == "POST":
            return self._end if query.flag("_eos_") else self._put
        if method == "PUT":
            return self._reject if query.flag("_negative_") else self._commit
        if method == "DELETE":
            return self._truncate if query.flag("_trunc_") else self._delete
        reads = {
            "_watch_": self._watch,
            "_attrs_": self._attributes,
            "_search_": self._search,
            "_count_": self._count,
        }
        return next((operation for name, operation in reads.items() if query.flag(name)), self._get)

    async def websocket(self, socket: WebSocket) -> None:
        if self._per_user:
            raise BadRequest("With --cluster nobody may watch the queue, which belongs to all", status=403)
        queue, _, query, identity = self._read(socket)
        if not query.flag("_watch_"):
            raise BadRequest("A WebSocket on a queue must ask to watch it: _watch_=true")
        await watch_websocket(self._service, WatchOrder.parse(queue, identity, query), socket)

    def _read(self, connection: HTTPConnection) -> tuple[str, str, Query, Identity]:
        """Queue, sub-path, query, who asks."""
        self._check_service(connection)
        path = connection.path_params.get("path", "").strip("/")
        rear = is_rear(connection.headers)
        queue = self._service.queue_of(path, rear=rear)
        query = Query.parse(connection.scope["query_string"])
        return queue, path if queue == self._service.name else "", query, identity_of(connection.headers)

    def _check_service(self, connection: HTTPConnection) -> None:
        name = connection.path_params["service"]
        if name != self._service.name:
            raise NotFound(f"There is no service {name[:100]!r} here; this is {self._service.name!r}")

    # -- writing -------------------------------------------------------------------------------------

    async def _put(self, call: Call) -> Response:
        self._service.check_room(call.queue)
        item = NewItem(
            await _body(call.request, self._service.settings.max_payload),
            {**call.query.tags, REQUEST_ID: request_id_of(call.query), **await self._internal_tags(call)},
            priority_of(call.query, call.request.headers),
            call.path,
        )
        receipt = await self._service.put(call.queue, item)
        if not receipt.fresh:
            await self._refuse_anothers(call.queue, item)
        return PlainTextResponse(str(receipt.index), headers={REQUEST_ID_HEADER: receipt.request_id})

    async def _refuse_anothers(self, queue: str, item: NewItem) -> None:
        """A repeated put gets the first one's index; but under an id that another user chose, it would be lost."""
        id = item.tags[REQUEST_ID]
        record = await self._service.store.task(queue, id)
        if record is not None and record.tags.get(USER) != item.tags.get(USER):
            raise BadRequest(f"{REQUEST_ID} {id!r} is taken; choose another or none", field=REQUEST_ID, status=409)

    async def _internal_tags(self, call: Call) -> dict[str, str]:
        """What goes with the item and is shown to nobody."""
        tags = {}
        user = getattr(call.request.state, "user", None)
        if user is not None:
            tags[USER] = user
        url = call.query.reserved.get(CALLBACK_URL, "")
        if url:
            if self._check_callback is not None:
                await self._check_callback(url, CALLBACK_URL)
            tags[CALLBACK_URL] = url
        return tags

    async def _end(self, call: Call) -> Response:
        await self._service.store.end(call.queue, force=call.query.flag("_force_"))
        return _ok()

    async def _commit(self, call: Call) -> Response:
        await self._service.commit(call.queue, call.identity.group, call.query.indexes())
        return _ok()

    async def _reject(self, call: Call) -> Response:
        """Back to the queue; an item of the input that was tried too often is given up."""
        indexes = call.query.indexes()
        form = await _form(call)
        code, reason = form.get("_code_", ""), form.get("_reason_", "")
        counts = code.partition(".")[0] != NO_FAULT
        returned = await self._service.store.reject(call.queue, call.identity.group, indexes, counts=counts)
        self._service.settled.tell(call.queue, call.identity.group, set(indexes).__contains__)
        if counts and call.queue == self._service.name:
            for delivery in returned:
                if delivery.count >= self._service.settings.max_delivery:
                    why = ": ".join(filter(None, (code, reason))) or "rejected"
                    await self._service.give_up(delivery.item, rejected(delivery.item, why, self._service.failure))
        return _ok()

    async def _delete(self, call: Call) -> Response:
        await self._service.delete(call.queue, call.query.indexes())
        return _ok()

    async def _truncate(self, call: Call) -> Response:
        if "_index_" not in call.query.reserved:
            raise BadRequest("_index_ is missing: everything below it is removed")
        await self._service.truncate(call.queue, call.query.whole("_index_", 0, least=0))
        return _ok()

    # -- reading -------------------------------------------------------------------------------------

    async def _get(self, call: Call) -> Response:
        """Without `_auto_delete_`, reading removes results but no requests: a probe must not eat work."""
        query = call.query
        raw = query.flag("_raw_", True)
        order = GetOrder.parse(
            call.queue,
            call.identity.group,
            query,
            delete_by_default=call.queue == sink_of(self._service.name),
            single=raw and PROTOBUF not in call.accept,
        )
        return answer(await read_items(self._service, order, call.request), accept=call.accept, raw=raw)

    async def _watch(self, call: Call) -> Response:
        return WatchStream(self._service, WatchOrder.parse(call.queue, call.identity, call.query))

    async def _attributes(self, call: Call) -> Response:
        stats = await self._service.store.stats(call.queue)
        attributes = attributes_of(call.queue, stats, self._service.settings)
        if PROTOBUF in call.accept:
            return Response(attribute_list(attributes), media_type=PROTOBUF)
        return JSONResponse(attributes)

    async def _search(self, call: Call) -> Response:
        """`{}` for what is finished or never was: every other answer costs six requests."""
        index = call.query.whole("_index_", 0, least=0)
        state = await self._service.store.search(
            call.queue, index, group=call.identity.group, service_group=self._service.name
        )
        if state is None:
            return JSONResponse({})
        return JSONResponse({"ConsumerId": state.consumer_id, "IsPending": state.pending, "WaitCount": state.ahead})

    async def _count(self, call: Call) -> Response:
        query = call.query
        priority = query.whole("_priority_", 0, least=0) if "_priority_" in query.reserved else None
        return PlainTextResponse(str(await self._service.store.count(call.queue, priority=priority, tags=query.tags)))

    async def upstreams(self, request: Request) -> Response:
        """For the SDKs' direct endpoints: this front end, under the address the client reached it by."""
        self._check_service(request)
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        return JSONResponse({"endpoints": {"items": [{"ip": request.url.hostname, "port": port, "weight": 100}]}})


def _ok() -> Response:
    return PlainTextResponse("OK")


async def _body(request: Request, limit: int) -> bytes:
    """Raises PayloadTooLarge, as a rule before anything was read."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise PayloadTooLarge(f"The message is larger than {limit} bytes")
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > limit:
            raise PayloadTooLarge(f"The message is larger than {limit} bytes")
    return bytes(parts)


async def _form(call: Call) -> dict[str, str]:
    """Of a negative commit; the fields may also stand in the query."""
    text = (await _body(call.request, MAX_FORM_BYTES)).decode("utf-8", "replace")
    try:
        fields = dict(parse_qsl(text, max_num_fields=100))
    except ValueError:
        raise BadRequest("The form of a negative commit holds _code_ and _reason_ only") from None
    return {**call.query.reserved, **fields}
