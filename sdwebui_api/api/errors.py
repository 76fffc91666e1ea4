"""The one place where errors become answers, in A1111's form: `{"error", "detail", "body", "errors"}`.

Validation keeps `detail` as the list of `{loc, msg, type}` that every FastAPI client knows.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from sdwebui_api.api.call_log import note_error
from sdwebui_api.api.eas_answer import failure_of
from sdwebui_api.api.json_hints import json_problem
from sdwebui_api.errors import Busy, Cancelled, SdWebUIError, Unavailable
from sdwebui_api.scripting.arguments import UnknownScript

log = logging.getLogger(__name__)

MAX_CHOICES = 60


class ErrorResponse(JSONResponse):
    """ASCII with escapes: error texts may quote what UTF-8 cannot hold."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(SdWebUIError, _own)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _validation)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _http)  # type: ignore[arg-type]
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


def error_body(error: str, detail: Any, errors: str = "") -> dict[str, Any]:
    return {"error": error, "detail": detail, "body": "", "errors": errors}


def error_response(error: SdWebUIError, more: Mapping[str, Any] | None = None) -> ErrorResponse:
    """The answer to one of our own errors, with `more` keys; middleware that refuses a request uses it too."""
    body = error_body(error.name or type(error).__name__, _detail(error), _errors_text(error))
    return ErrorResponse({**body, **(more or {})}, error.status, headers=_headers(error))


def _detail(error: SdWebUIError) -> Any:
    """A wrong field answers as validation does; everything else as A1111's HTTPException does."""
    if error.field and error.status == HTTPStatus.UNPROCESSABLE_ENTITY and not isinstance(error, UnknownScript):
        return [{"loc": ["body", *_path(error.field)], "msg": error.message, "type": "value_error"}]
    return error.message


def _path(field: str) -> list[str | int]:
    """`init_images[0]` -> ["init_images", 0]; dots separate names."""
    parts = field.replace("[", ".").replace("]", "").split(".")
    return [int(part) if part.isdecimal() else part for part in parts]


def _errors_text(error: SdWebUIError) -> str:
    lines = [f"{error.field}: {error.message}" if error.field else error.message]
    if error.choices:
        shown = list(error.choices[:MAX_CHOICES])
        lines.append(f"choices: {', '.join(shown)}" + (", …" if len(error.choices) > len(shown) else ""))
    return "\n".join(lines)


def _headers(error: SdWebUIError) -> dict[str, str] | None:
    if isinstance(error, Busy):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    if isinstance(error, Unavailable):
        return {"Retry-After": "5"}
    return None


async def _own(request: Request, error: SdWebUIError) -> ErrorResponse:
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # A refused WebSocket comes here too; it has no method.
        log.warning("%s %s: %s", request.scope.get("method", "WebSocket"), request.url.path, error.message)
    note_error(request, type(error).__name__, error.field)
    return error_response(error, failure_of(request, error.status, _errors_text(error)))


async def _validation(request: Request, error: RequestValidationError) -> ErrorResponse:
    problems = [_problem(problem, error.body) for problem in error.errors()]
    text = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems[:20])
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    note_error(request, type(error).__name__, ".".join(map(str, problems[0]["loc"])) if problems else None)
    more = failure_of(request, status, text, error.body)
    return ErrorResponse({**error_body("RequestValidationError", problems, text), **more}, status)


def _problem(problem: Mapping[str, Any], sent: Any) -> dict[str, Any]:
    """Without pydantic's `input`, which would send a client's megabytes back to it, and `url`."""
    loc: Sequence[Any] = problem["loc"]
    message = problem["msg"]
    if problem["type"] == "json_invalid" and isinstance(sent, str):
        message = json_problem(sent, int(loc[-1]), problem["ctx"]["error"])
    return {
        "loc": [part if isinstance(part, int) else str(part) for part in loc],
        "msg": message,
        "type": problem["type"],
    }


async def _http(request: Request, error: HTTPException) -> ErrorResponse:
    note_error(request, type(error).__name__)
    more = failure_of(request, error.status_code, str(error.detail))
    body = error_body("HTTPException", error.detail) | more
    return ErrorResponse(body, error.status_code, headers=error.headers)


async def _gone(request: Request, error: Exception) -> ErrorResponse:
    """The client went away before its body was whole: nobody reads the answer, and nothing is wrong here."""
    return await _own(request, Cancelled("The client went away before the end of its request"))


async def _unexpected(request: Request, error: Exception) -> ErrorResponse:
    """A bug. The server's log has the traceback (Starlette raises it again); the client gets no paths."""
    note_error(request, type(error).__name__)
    text = "Internal Server Error"
    return ErrorResponse(error_body(type(error).__name__, text) | failure_of(request, 500, text), 500)


def not_found() -> ErrorResponse:
    return ErrorResponse(error_body("HTTPException", "Not Found"), 404)


def to_json(body: Any) -> bytes:
    """Compact and UTF-8, as Starlette renders; for bodies rendered off the event loop."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
