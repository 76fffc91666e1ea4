"""What Prometheus reads: counters that grow as things happen, and values that are looked up when it asks.

One `Metrics` per server, with a registry of its own. No metric is labelled with what clients choose freely.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from sdwebui_api.jobs.job import Job

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_WORK_BUCKETS = (0.1, 0.3, 1, 2, 4, 8, 15, 30, 60, 120, 300, 900)
_STAGE_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_HTTP_BUCKETS = (0.005, 0.02, 0.1, 0.5, 2, 8, 30, 120)
_BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


@dataclass(frozen=True)
class EngineStatistics:
    """Of the engine, since its start or now. Sizes in bytes."""

    step_batches: Mapping[int, int] = field(default_factory=dict)
    """Evaluations in one forward pass → how many passes had as many."""
    caches: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Cache → (hits, misses)."""
    weights_bytes: int = 0
    gpu_bytes: Mapping[str, int] = field(default_factory=dict)
    """`used` and `total` of the whole GPU, `allocated` and `reserved` by this process; empty without a GPU."""


@dataclass(frozen=True)
class QueueDepth:
    """Of one queue of the service."""

    queue: str
    """`input`, `sink`, `rear` or `callbacks`."""
    waiting: int
    delivered: int
    oldest_seconds: float
    consumers: int


class Metrics:
    """`job_ended` and `request_ended` may be called from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._jobs = self._counter("jobs_ended", "Jobs that have ended", "kind", "state")
        self._images = self._counter("images", "Pictures made, grids and masks not counted", "kind")
        self._waiting = self._histogram("job_wait_seconds", "From admission to a job's start", _WORK_BUCKETS, "kind")
        self._working = self._histogram("job_seconds", "From a job's start to its end", _WORK_BUCKETS, "kind")
        self._stages = self._histogram("stage_seconds", "Of one request, by stage", _STAGE_BUCKETS, "stage")
        self._requests = self._counter("http_requests", "Requests answered", "door", "method", "route", "status")
        self._answering = self._histogram(
            "http_request_seconds", "From a request's arrival to the end of its answer", _HTTP_BUCKETS, "door", "route"
        )

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"sdwebui_{name}", help, labels, registry=self.registry)

    def _histogram(self, name: str, help: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"sdwebui_{name}", help, labels, registry=self.registry, buckets=buckets)

    def job_ended(self, job: Job) -> None:
        """An observer for `JobRunner.observe`."""
        self._jobs.labels(job.kind, job.state).inc()
        if job.pictures:
            self._images.labels(job.kind).inc(job.pictures)
        if job.started is None or job.finished is None:
            return
        self._waiting.labels(job.kind).observe(job.started - job.created)
        self._working.labels(job.kind).observe(job.finished - job.started)
        for stage, seconds in job.stages.seconds.items():
            self._stages.labels(stage).observe(seconds)

    def stage_ended(self, stage: str, seconds: float) -> None:
        """Of a request, outside of its job: `fetch` of pictures by URL, `answer` (encoding, uploading)."""
        self._stages.labels(stage).observe(seconds)

    def request_ended(self, door: str, method: str, route: str, status: int, seconds: float) -> None:
        """`door`: `http`, or `queue` for a queued request; `route`: its pattern, never the path itself."""
        self._requests.labels(door, method, route, str(status)).inc()
        self._answering.labels(door, route).observe(seconds)

    def render(self, families: Iterable[Metric]) -> bytes:
        """In the format `CONTENT_TYPE`; `families` are the values of this moment."""
        return generate_latest(_Together(self.registry, list(families)))


class _Together(Collector):
    """What the exposition formats read of a registry, and the families of one scrape after it."""

    def __init__(self, registry: CollectorRegistry, families: Sequence[Metric]) -> None:
        self._registry = registry
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            # When a series began is a series of its own in this format: a third more, for nobody.
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
        yield from self._families


# -- values of the moment ----------------------------------------------------------------------------------------------


def server_families(version: str, ready: bool, queued: int, running: int) -> Iterator[Metric]:
    yield _gauge("build", "The program's version", {(version,): 1}, "version")
    yield _gauge("ready", "1 when requests for pictures are served", {(): ready})
    yield _gauge("jobs", "Jobs that wait or run in this process", {("queued",): queued, ("running",): running}, "state")


def engine_families(engine: EngineStatistics) -> Iterator[Metric]:
    yield _batches(engine.step_batches)
    for index, name in enumerate(("hits", "misses")):
        family = CounterMetricFamily(f"sdwebui_cache_{name}", f"Cache {name}", labels=("cache",))
        for cache, counts in engine.caches.items():
            family.add_metric((cache,), counts[index])
        yield family
    yield _gauge("weights_bytes", "Weights kept in memory", {(): engine.weights_bytes})
    if engine.gpu_bytes:
        sizes = {(kind,): size for kind, size in engine.gpu_bytes.items()}
        yield _gauge("gpu_memory_bytes", "GPU memory", sizes, "kind")


def _batches(sizes: Mapping[int, int]) -> Metric:
    """A histogram of what was counted exactly."""
    family = HistogramMetricFamily("sdwebui_step_batch_size", "Evaluations of jobs per forward pass")
    buckets = [(f"{bound}.0", sum(count for size, count in sizes.items() if size <= bound)) for bound in _BATCH_BUCKETS]
    buckets.append(("+Inf", sum(sizes.values())))
    family.add_metric((), buckets, sum(size * count for size, count in sizes.items()))
    return family


def queue_families(service: str, depths: Sequence[QueueDepth] | None) -> Iterator[Metric]:
    """`depths` None: the store cannot be reached."""
    yield _gauge("queue_up", "1 when the queue's store answers", {(service,): depths is not None}, "service")
    if depths is None:
        return
    items: dict[tuple[str, ...], float] = {}
    for depth in depths:
        items[service, depth.queue, "waiting"] = depth.waiting
        items[service, depth.queue, "delivered"] = depth.delivered
    yield _gauge("queue_items", "Items by queue", items, "service", "queue", "state")
    ages = {(service, depth.queue): depth.oldest_seconds for depth in depths}
    yield _gauge("queue_oldest_seconds", "Age of the oldest item", ages, "service", "queue")
    consumers = {(service, depth.queue): depth.consumers for depth in depths}
    yield _gauge("queue_consumers", "Consumers, workers included", consumers, "service", "queue")


def _gauge(name: str, help: str, values: Mapping[Any, float], *labels: str) -> Metric:
    family = GaugeMetricFamily(f"sdwebui_{name}", help, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, float(value))
    return family
