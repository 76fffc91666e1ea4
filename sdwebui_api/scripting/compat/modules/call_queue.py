"""`modules.call_queue`: A1111's one lock around everything. Jobs here need none; extensions may hold it among
themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

queue_lock = threading.RLock()


def wrap_gradio_call(
    func: Callable[..., Any], extra_outputs: Any = None, add_stats: bool = False
) -> Callable[..., Any]:
    return func


wrap_gradio_gpu_call = wrap_gradio_call
wrap_gradio_call_no_job = wrap_gradio_call


def wrap_queued_call(func: Callable[..., Any]) -> Callable[..., Any]:
    def queued(*args: Any, **kwargs: Any) -> Any:
        with queue_lock:
            return func(*args, **kwargs)

    return queued
