"""Answers by address, as EAS services give them: `images` is empty, `parameters` says where the pictures lie.

A request is answered so when it was queued, when it names `save_dir`, and under `--nowebui` when it has any key of EAS
clients and `save_images` wrote its pictures; all other answers are A1111's. Failures of such requests have the keys
of both forms.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.requests import Request

from sdwebui_api.api.eas_extras import has_extras, spelled
from sdwebui_api.queueing.call import queued_call


@dataclass(frozen=True)
class EasCall:
    """A request that is, or may be, answered by address."""

    id_task: str | None
    uid: str | None
    queued: bool
    begun: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return round(time.perf_counter() - self.begun, 2)


def begin(request: Request, body: Mapping[str, Any], *, nowebui: bool) -> EasCall | None:
    """None: the request is answered as A1111 answers. `body`: its fields, checked or not."""
    alwayson = body.get("alwayson_scripts")
    queued = queued_call(request.scope) is not None
    saves = nowebui and body.get("save_images") is True and has_extras(alwayson)
    if not queued and not saves and not spelled(alwayson, "save_dir"):
        return None
    call = EasCall(spelled(alwayson, "id_task") or None, spelled(alwayson, "uid") or None, queued)
    # Error answers and the request log find it there.
    request.state.eas = call
    return call


def success(
    call: EasCall, urls: Sequence[str], seeds: Sequence[int], masks: Sequence[str], info: Mapping[str, Any]
) -> dict[str, Any]:
    """`urls`: grid, then pictures; `masks`: the detected maps of control units; `info`: what else is told."""
    return {
        "images": [],
        "parameters": {
            "id_task": call.id_task,
            "status": 0,
            "image_url": ",".join(urls),
            "seed": ",".join(map(str, seeds)),
            "error_msg": "",
            "image_mask_url": ",".join(masks),
            "total_time": call.seconds,
        },
        "info": _info(info),
    }


def failure(status: int, message: str, id_task: str | None, seconds: float) -> dict[str, Any]:
    """The keys that a failure has besides A1111's. `status`: the HTTP one, never 0."""
    return {
        "images": [],
        "parameters": {
            "id_task": id_task,
            "status": status,
            "image_url": "",
            "seed": "",
            "error_msg": message,
            "image_mask_url": "",
            "total_time": seconds,
        },
        "info": _info({}),
    }


def failure_of(request: Request, status: int, message: str, body: Any = None) -> dict[str, Any]:
    """The same for a request that is being refused; empty when it is not answered by address.

    `body`: what the client sent, where no route has seen it.
    """
    call = getattr(request.state, "eas", None)
    if call is None:
        sent = body if isinstance(body, Mapping) else {}
        call = begin(request, sent, nowebui=False)
    return failure(status, message, call.id_task, call.seconds) if call else {}


def failure_body(status: int, message: str, *, id_task: str | None = None) -> bytes:
    """The result of a queued request that no route has seen, complete."""
    try:
        name = HTTPStatus(status).phrase.replace(" ", "")
    except ValueError:
        name = "Failed"
    answer = {"error": name, "detail": message, "body": "", "errors": message}
    return json.dumps(answer | failure(status, message, id_task, 0.0), separators=(",", ":")).encode()


def _info(more: Mapping[str, Any]) -> str:
    return json.dumps({"hostname": socket.gethostname(), **more})
