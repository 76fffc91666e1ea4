"""`modules.errors`: reports, into the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("sdwebui_api.extensions")
exception_records: list[Any] = []


def report(message: str, *, exc_info: bool = False) -> None:
    log.error("%s", message, exc_info=exc_info)


def print_error_explanation(message: str) -> None:
    log.error("%s", message)


def display(e: Exception, task: str, *, full_traceback: bool = False) -> None:
    log.error("%s", task, exc_info=e)


already_displayed: dict[str, int] = {}


def display_once(e: Exception, task: str) -> None:
    if task not in already_displayed:
        already_displayed[task] = 1
        display(e, task)


def run(code: Callable[[], Any], task: str) -> None:
    try:
        code()
    except Exception as error:
        display(error, task)


def record_exception() -> None:
    return


def get_exceptions() -> list[Any]:
    return []
