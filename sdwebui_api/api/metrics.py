"""GET /metrics: this process for Prometheus. The same route serves the API, a worker and a front end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from prometheus_client.core import Metric
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sdwebui_api import __version__
from sdwebui_api.api.services import Services
from sdwebui_api.errors import SdWebUIError
from sdwebui_api.metrics import CONTENT_TYPE, Metrics, QueueDepth, engine_families, queue_families, server_families
from sdwebui_api.queueing.model import callbacks_of, rear_of, sink_of
from sdwebui_api.queueing.service import QueueService

Families = Callable[[], Awaitable[Iterable[Metric]]]


def metrics_route(metrics: Metrics, families: Families) -> Route:
    async def answer(request: Request) -> Response:
        return Response(metrics.render(await families()), headers={"Content-Type": CONTENT_TYPE})

    return Route("/metrics", answer, methods=["GET"], include_in_schema=False)


async def families_of_server(services: Services) -> list[Metric]:
    runner = services.runner
    jobs = runner.live_jobs()
    running = sum(job.state == "running" for job in jobs)
    engine = await services.off_loop(services.engine.statistics)
    ready = services.engine.ready() and not runner.draining
    families = [*server_families(__version__, ready, len(jobs) - running, running), *engine_families(engine)]
    return families if services.queue is None else [*families, *await families_of_queue(services.queue)]


async def families_of_queue(queue: QueueService) -> list[Metric]:
    """Says so when the store is away; that is no failure of the scrape."""
    try:
        depths = await _depths(queue)
    except SdWebUIError:
        depths = None
    return list(queue_families(queue.name, depths))


async def _depths(queue: QueueService) -> list[QueueDepth]:
    name = queue.name
    queues = {"input": name, "sink": sink_of(name), "rear": rear_of(name), "callbacks": callbacks_of(name)}
    depths = []
    for label, full_name in queues.items():
        stats = await queue.store.stats(full_name)
        consumers = sum(consumer.status == "Running" for consumer in stats.consumers)
        delivered = max(stats.length - stats.waiting, 0)
        depths.append(QueueDepth(label, stats.waiting, delivered, stats.oldest_seconds, consumers))
    return depths
