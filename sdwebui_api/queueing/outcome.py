"""From an answer of the application to what is written: the result, the dead letter, the callback. No I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from sdwebui_api.queueing.call import CALLBACK_URL, kept_tags
from sdwebui_api.queueing.inprocess import Answer
from sdwebui_api.queueing.model import LAST_CODE, Delivery, Item, NewItem

DEAD_REASON = "deadReason"
BODY_KEY = "callback_url"
OK = 200
TOO_LARGE = 413
CANCELLED = 499
FAILED = 500


class FailureBody(Protocol):
    """Makes the body of a failure in the EAS form; `status` is the HTTP one."""

    def __call__(self, status: int, message: str, *, id_task: str | None = None) -> bytes: ...


@dataclass(frozen=True)
class Outcome:
    """What `store.finish` writes for an item."""

    result: NewItem | None
    """None: the application answered with an empty body, which is not passed on."""
    failed: bool = False
    dead: NewItem | None = None
    callback: NewItem | None = None


def without_callback(item: Item) -> tuple[bytes, str]:
    """The body for the application, and where its result is to be sent: the put's `_callback_url_`, or the body's
    top-level `callback_url`, which is taken out. Empty: nowhere."""
    given = item.tags.get(CALLBACK_URL, "")
    if b'"callback_url"' not in item.data:
        return item.data, given
    body = _fields(item)
    if not isinstance(body.get(BODY_KEY), str):
        return item.data, given  # the application will say what is wrong with it
    found = body.pop(BODY_KEY)
    return json.dumps(body).encode(), given or found


def _fields(item: Item) -> dict[str, Any]:
    """Of its body; none when that is no JSON object."""
    try:
        body = json.loads(item.data)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _id_task(item: Item) -> str | None:
    """The caller's own id in the body, which failures echo too."""
    scripts = _fields(item).get("alwayson_scripts")
    found = scripts.get("id_task") if isinstance(scripts, dict) else None
    return found if isinstance(found, str) else None


def outcome_of(item: Item, answer: Answer, callback_url: str, failure: FailureBody) -> Outcome:
    """A status other than 200 is a failure; one of the server's own (5xx) leaves the request among the dead letters."""
    if answer.too_large:
        text = "The result is too large for the queue; give save_dir (and no send_images), then it holds URLs"
        return _failed(item, TOO_LARGE, failure(TOO_LARGE, text, id_task=_id_task(item)), callback_url)
    if answer.status != OK:
        body = answer.body or _unexplained(item, answer, failure)
        dead = _dead(item, f"status {answer.status}") if answer.status >= FAILED else None
        return _failed(item, answer.status, body, callback_url, dead)
    if not answer.body:
        return Outcome(None)
    result = NewItem(answer.body, kept_tags(item.tags), item.priority)
    return Outcome(result, callback=_callback(result, callback_url))


def refused(item: Item, status: int, text: str, failure: FailureBody) -> Outcome:
    """For an item that is not even passed on; nothing is sent to its `callback_url`."""
    return _failed(item, status, failure(status, text, id_task=_id_task(item)), "")


def _unexplained(item: Item, answer: Answer, failure: FailureBody) -> bytes:
    return failure(answer.status, f"The request failed with status {answer.status}", id_task=_id_task(item))


def given_up(delivery: Delivery, max_delivery: int, failure: FailureBody) -> Outcome:
    """For an item that was tried often enough: its workers died or vanished."""
    item = delivery.item
    times = "once" if max_delivery == 1 else f"{max_delivery} times"
    reason = f"The request was tried {times}; its worker ended before there was a result"
    _, callback_url = without_callback(item)
    return _failed(item, FAILED, failure(FAILED, reason, id_task=_id_task(item)), callback_url, _dead(item, reason))


def rejected(item: Item, reason: str, failure: FailureBody) -> Outcome:
    """For an item that its consumer gave back (negative commit) as often as it may be tried."""
    _, callback_url = without_callback(item)
    text = f"The request was rejected by its consumer: {reason}"
    return _failed(item, FAILED, failure(FAILED, text), callback_url, _dead(item, reason))


def cancelled(item: Item, failure: FailureBody) -> Outcome:
    """For an item that its sender took back."""
    _, callback_url = without_callback(item)
    return _failed(item, CANCELLED, failure(CANCELLED, "The request was cancelled"), callback_url)


def _failed(item: Item, status: int, body: bytes, callback_url: str, dead: NewItem | None = None) -> Outcome:
    result = NewItem(body, {**kept_tags(item.tags), LAST_CODE: str(status)}, item.priority)
    return Outcome(result, True, dead, _callback(result, callback_url))


def _dead(item: Item, reason: str) -> NewItem:
    return NewItem(item.data, {**kept_tags(item.tags), DEAD_REASON: reason}, item.priority, item.path)


def _callback(result: NewItem, url: str) -> NewItem | None:
    """None: it is sent nowhere. A text that no store can hold (a lone surrogate in the body's JSON) is no address."""
    if not url or url.encode("utf-8", "replace").decode() != url:
        return None
    return NewItem(result.data, {**result.tags, CALLBACK_URL: url}, result.priority)
