"""`modules.progress`: ids of tasks. Jobs are counted by the server itself."""

from __future__ import annotations

import random
import string
from typing import Any

from sdwebui_api.scripting.compat.world import view

pending_tasks: dict[str, float] = {}
finished_tasks: list[str] = []
recorded_results: list[Any] = []


def add_task_to_queue(id_job: str) -> None:
    return


def start_task(id_task: str) -> None:
    return


def finish_task(id_task: str) -> None:
    return


def record_results(id_task: str, res: Any) -> None:
    return


def create_task_id(task_type: str) -> str:
    return f"task({task_type}-{''.join(random.choices(string.ascii_uppercase + string.digits, k=7))})"


def __getattr__(name: str) -> Any:
    if name == "current_task":
        found = view()
        return found.context.job.id if found else None
    raise AttributeError(f"modules.progress.{name} is not offered by this server")
