"""What is told of every answered request: to the log as a line or as JSON, to the metrics as numbers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.types import Scope

from sdwebui_api.config.flags import Flags
from sdwebui_api.jobs.job import Job
from sdwebui_api.metrics import Metrics
from sdwebui_api.queueing.call import public_tags, queued_call

access = logging.getLogger("sdwebui_api.access")
api_log = logging.getLogger("sdwebui_api.api_log")
time_log = logging.getLogger("sdwebui_api.time_log")

QUIET_PATHS = (
    "/health/", "/metrics", "/internal/ping", "/sdapi/v1/progress", "/internal/progress", "/api/predict/",
    "/gradio_api/", "/assets/", "/static/", "/svelte/", "/theme.css",
)  # fmt: skip
"""Polled all the time, the queue's own traffic (hundreds a second), and what a page fetches by the dozen: logged at
level DEBUG, and by `--api-log`."""
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
PROMPTS = ("prompt", "negative_prompt")
OTHER = "other"
_LONGEST = 500


@dataclass(frozen=True)
class Call:
    """A request that was answered. `received` and `sent`: bytes of the bodies, the first as announced."""

    scope: Scope
    request_id: str
    status: int
    seconds: float
    received: int
    sent: int

    @property
    def state(self) -> Mapping[str, Any]:
        state: Mapping[str, Any] = self.scope.get("state", {})
        return state

    @property
    def client(self) -> str:
        return str((self.scope.get("client") or ("-",))[0])

    @property
    def route(self) -> str:
        """The pattern that answered; the first one of a function that answers several."""
        route, endpoint = self.scope.get("route"), self.scope.get("endpoint")
        if route is None and endpoint is not None:  # FastAPI notes the route of its own kind only
            routes = self.scope["app"].routes
            route = next((route for route in routes if getattr(route, "endpoint", None) == endpoint), None)
        return str(getattr(route, "path", OTHER))


Observer = Callable[[Call], None]


def observers(flags: Flags, metrics: Metrics) -> list[Observer]:
    """As the command line says."""
    if flags.api_log or flags.api_log_prompts:
        return [ApiLog(prompts=flags.api_log_prompts), numbers(metrics)]
    return [write_line, numbers(metrics)]


def write_line(call: Call) -> None:
    """One line for people."""
    path: str = call.scope["path"]
    expected = call.status < 400 or path.startswith("/health/")
    job = call.state.get("job_id")
    access.log(
        logging.DEBUG if path.startswith(QUIET_PATHS) and expected and not job else logging.INFO,
        "id=%s method=%s path=%s status=%d ms=%.1f client=%s%s",
        call.request_id, call.scope["method"], _escaped(path), call.status, call.seconds * 1000,
        call.client, f" job={_escaped(job)}" if job else "",
    )  # fmt: skip


def _escaped(text: str) -> str:
    """On one line, whatever the client put into it."""
    return text.encode("unicode_escape").decode()


class ApiLog:
    """`--api-log`: one line of JSON. `prompts`: with the texts of the request, which may be anything but harmless."""

    def __init__(self, *, prompts: bool) -> None:
        self._prompts = prompts

    def __call__(self, call: Call) -> None:
        api_log.info("%s", json.dumps(self._row(call), default=str))

    def _row(self, call: Call) -> dict[str, Any]:
        """Keys without a value are left out."""
        scope, state, queued = call.scope, call.state, queued_call(call.scope)
        eas, moment = state.get("eas"), time.time()
        row = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment * 1000) % 1000:03d}Z",
            "id": call.request_id,
            "method": scope["method"],
            "path": scope["path"][:_LONGEST],
            "query": _query(scope),
            "status": call.status,
            "ms": round(call.seconds * 1000, 1),
            "door": "queue" if queued else "http",
            "client": call.client,
            "user": state.get("user"),
            "job": state.get("job_id"),
            "tags": public_tags(queued.tags) if queued else None,
            "id_task": getattr(eas, "id_task", None),
            "uid": getattr(eas, "uid", None),
            "bytes_in": call.received,
            "bytes_out": call.sent,
            "error": state.get("error"),
            "request": self._facts(state.get("facts", {})),
        }
        return {name: value for name, value in row.items() if value not in (None, "", {})}

    def _facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in facts.items() if self._prompts or name not in PROMPTS}


def _query(scope: Scope) -> dict[str, str]:
    """Without what begins with `_`: addresses of callbacks may carry secrets."""
    try:
        pairs = parse_qsl(scope.get("query_string", b"").decode("latin-1"), max_num_fields=100)
    except ValueError:
        return {}
    return {name[:100]: value[:_LONGEST] for name, value in pairs if not name.startswith("_")}


def note_facts(request: Request, **facts: Any) -> None:
    """What a route knows of its request, for `--api-log`; called again it adds."""
    request.state.facts = {**getattr(request.state, "facts", {}), **facts}


def note_error(request: Request, name: str, field: str | None = None) -> None:
    """What went wrong, for `--api-log`; without the message, which may quote a prompt."""
    request.state.error = f"{name} ({field})" if field else name


def numbers(metrics: Metrics) -> Observer:
    def count(call: Call) -> None:
        door = "queue" if queued_call(call.scope) else "http"
        method = call.scope["method"] if call.scope["method"] in METHODS else OTHER
        metrics.request_ended(door, method, call.route, call.status, call.seconds)

    return count


def log_job_time(job: Job) -> None:
    """`--time-log`: an observer of ended jobs."""
    if job.started is None or job.finished is None:
        return
    stages = "".join(f" {stage}={seconds:.3f}" for stage, seconds in job.stages.seconds.items())
    time_log.info(
        "job=%s kind=%s state=%s wait=%.3f total=%.3f%s pictures=%d",
        _escaped(job.id), job.kind, job.state, job.started - job.created, job.finished - job.started,
        stages, job.pictures,
    )  # fmt: skip
