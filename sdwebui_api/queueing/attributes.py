"""What a queue says of itself: one flat table of texts, numbers included."""

from __future__ import annotations

from sdwebui_api.queueing.identity import GROUP_HEADER, PRIORITY_HEADER, USER_HEADER
from sdwebui_api.queueing.model import ConsumerStats, QueueStats
from sdwebui_api.queueing.settings import QueueSettings


def attributes_of(queue: str, stats: QueueStats, settings: QueueSettings) -> dict[str, str]:
    answer = {
        "meta.name": queue,
        "meta.backend": settings.url.partition(":")[0].replace("rediss", "redis"),
        "meta.state": "Ended" if stats.ended else "Normal",
        "meta.maxPayloadBytes": str(settings.max_payload),
        "meta.header.user": USER_HEADER,
        "meta.header.group": GROUP_HEADER,
        "meta.header.priority": PRIORITY_HEADER,
        "meta.header.userIdentifyHeader": USER_HEADER,
        "meta.header.groupIdentifyHeader": GROUP_HEADER,
        "stream.length": str(stats.length),
        "stream.waiting": str(stats.waiting),
        "stream.oldestSeconds": f"{stats.oldest_seconds:.1f}",
        "stream.approxMaxLength": str(settings.max_length),
        "consumers.stats.total": str(len(stats.consumers)),
    }
    answer.update(_entries(stats))
    answer.update({f"consumers.list.[{number}]": _consumer(one) for number, one in enumerate(stats.consumers)})
    answer.update({f"groups.list.[{number}]": f"Id: {name}" for number, name in enumerate(stats.groups)})
    return answer


def _entries(stats: QueueStats) -> dict[str, str]:
    """Absent while the queue has never held anything: clients ask whether they are there. Emptied, `firstEntry` is
    where the next item will be at the earliest."""
    if stats.last_index is None:
        return {}
    first = stats.first_index if stats.first_index is not None else stats.last_index
    return {"stream.firstEntry": str(first), "stream.lastEntry": str(stats.last_index)}


def _consumer(consumer: ConsumerStats) -> str:
    slots = max(0, consumer.window - consumer.pending)
    parts = [
        f"Id: {consumer.group}.{consumer.user}",
        f"Index: {consumer.index}",
        f"Pending: {consumer.pending}",
        f"Status: {consumer.status}",
        f"Idle: {consumer.idle_seconds:.3f}s",
        f"Window: {consumer.window}",
        f"Slots: {slots}",
        f"AutoCommit: {str(consumer.auto_commit).lower()}",
    ]
    if consumer.tags:
        parts.append("Tags: tags[" + " ".join(f"{name}={value}" for name, value in consumer.tags.items()) + "]")
    return ", ".join(parts)
