"""Hires what works beside the application on its own queue: the worker and the callback dispatcher."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from sdwebui_api.api.services import Services
from sdwebui_api.queueing.callbacks import CallbackDispatcher, CallbackRules
from sdwebui_api.queueing.consuming import ConsumerLoop
from sdwebui_api.queueing.inprocess import InProcess
from sdwebui_api.queueing.service import QueueService
from sdwebui_api.queueing.staff import Staff
from sdwebui_api.queueing.worker import Worker, WorkerRules
from sdwebui_api.storage.callback_sender import callback_sender


def staff_of(services: Services, queue: QueueService, loading: Callable[[], bool]) -> Staff:
    """`loading()`: the first checkpoint is being loaded; until it is there nothing is taken.

    Raises NotFound and BadRequest for an unusable `--callback-secret-file`.
    """
    sender = callback_sender(services.flags)

    def store() -> Any:
        return queue.store

    def hire(app: Any) -> list[ConsumerLoop]:
        dispatcher = CallbackDispatcher(store, sender, CallbackRules(queue.name))
        rules = worker_rules(services, queue)
        if rules.room == 0:
            return [dispatcher]
        worker = Worker(
            store,
            InProcess(app),
            rules,
            queue.failure,
            foreign=_foreign_jobs(services),
            ready=_readiness(services, loading),
            check_callback=sender.check,
        )
        return [worker, dispatcher]

    return Staff(hire)


def worker_rules(services: Services, queue: QueueService) -> WorkerRules:
    """Without `--worker-threads`: as many side by side as may share a forward pass."""
    settings = queue.settings
    threads = settings.worker_threads
    return WorkerRules(
        queue.name,
        services.runner.concurrency if threads is None else threads,
        lease=settings.lease,
        max_delivery=settings.max_delivery,
        drain_seconds=settings.drain_seconds,
        max_sink_length=settings.max_length,
        default_path=settings.default_path,
    )


def _readiness(services: Services, loading: Callable[[], bool]) -> Callable[[], bool]:
    def ready() -> bool:
        """Also when the checkpoint could not be loaded: requests may name others, and failures say what is wrong."""
        if services.runner.draining or services.catalog.checkpoints.default() is None:
            return False
        return services.engine.ready() or not loading()

    return ready


def _foreign_jobs(services: Services) -> Callable[[Collection[str]], int]:
    return lambda ids: sum(job.id not in ids for job in services.runner.live_jobs())
