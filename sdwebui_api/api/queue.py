"""The queue as the API sees it: made from the flags, and its requests by id for clients that only poll."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdwebui_api.api.eas_answer import failure_body
from sdwebui_api.config.flags import Flags
from sdwebui_api.errors import NotFound
from sdwebui_api.queueing.call import USER, public_tags
from sdwebui_api.queueing.model import TaskRecord
from sdwebui_api.queueing.routes import CheckCallback
from sdwebui_api.queueing.service import QueueService
from sdwebui_api.queueing.settings import queue_settings
from sdwebui_api.queueing.stores.build import make_store

if TYPE_CHECKING:
    from sdwebui_api.storage.net_guard import NetGuard


def build_queue(flags: Flags, data_dir: Path) -> QueueService:
    """Connects to nothing yet. Raises BadRequest, naming the flag."""
    settings = queue_settings(flags, data_dir)
    return QueueService(settings, make_store(settings), failure_body)


def callback_check(flags: Flags) -> CheckCallback:
    """For `_callback_url_`: as the worker that will send there sees the address."""

    @cache
    def guard() -> NetGuard:
        # With the first such put; importing an HTTP client would double the time a front end takes to start.
        from sdwebui_api.storage import net_guard

        return net_guard.NetGuard(net_guard.AllowList(flags.image_link_allow))

    async def check(url: str, field: str) -> None:
        await guard().check(url, field)

    return check


async def queued_task(queue: QueueService, id: str, user: str | None) -> TaskRecord | None:
    """A request that `user` put; None for anybody else's. Raises StoreUnavailable."""
    record = await queue.task(id)
    return record if record is not None and record.tags.get(USER) == user else None


def no_job(id: str) -> NotFound:
    return NotFound(f"There is no job {id[:100]!r}", field="id")


def task_extras(record: TaskRecord) -> dict[str, Any]:
    """What the row of a queued request has beyond that of a job."""
    return {"index": record.index, "tags": public_tags(record.tags), "result": _result(record.result)}


async def task_row(queue: QueueService, record: TaskRecord) -> dict[str, Any]:
    """The row of a request that no job of this process works on, with the keys of a job's row."""
    row = {
        "id": record.request_id,
        "kind": "queued",
        "state": record.state,
        "summary": "",
        "created": record.created,
        "started": None,
        "finished": record.finished,
        "position": await _position(queue, record) if record.state == "queued" else None,
        "progress": 1.0 if record.state == "done" else 0.0,
        "eta_relative": None,
        "job": "",
        "job_count": 0,
        "job_no": 0,
        "sampling_step": 0,
        "sampling_steps": 0,
        "interrupted": False,
        "skipped": False,
        "error": _error(record) if record.state == "failed" else None,
    }
    return {**row, **task_extras(record)}


async def _position(queue: QueueService, record: TaskRecord) -> int | None:
    """How many requests are taken before this one."""
    state = await queue.store.search(queue.name, record.index, group=queue.name, service_group=queue.name)
    return state.ahead if state is not None else None


def _result(data: bytes | None) -> Any:
    """Parsed; None also when it is no JSON, or was too large to be kept here: then the sink has it."""
    try:
        return json.loads(data) if data is not None else None
    except ValueError:
        return None


def _error(record: TaskRecord) -> str:
    result = _result(record.result)
    parameters = result.get("parameters") if isinstance(result, dict) else None
    message = parameters.get("error_msg") if isinstance(parameters, dict) else None
    return message if isinstance(message, str) and message else "The request failed or was removed from the queue"
