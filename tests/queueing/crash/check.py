"""What must be true after the last crash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from sdwebui_api.queueing.model import LAST_CODE, Item

GIVEN_UP = b"its worker ended before there was a result"


@dataclass
class Report:
    """One row of the table."""

    name: str
    kills: int = 0
    puts: int = 0
    """Acknowledged."""
    results: int = 0
    lost: int = 0
    """Acknowledged, but without a result."""
    duplicates: int = 0
    """Results beyond the first of a request."""
    strangers: int = 0
    """Results of requests whose acknowledgement was lost with a connection: nobody knew that they had been put."""
    doubtful: int = 0
    """Puts of which the client does not know whether they arrived: so many strangers there may be."""
    disorder: int = 0
    """Deliveries that came before an older one of the same priority, or puts whose indexes are not in order."""
    repeated: int = 0
    """Requests that were delivered more than once, because a worker died over them."""
    given_up: int = 0
    """Failure results of requests that were tried as often as allowed."""
    failed: list[bytes] = field(default_factory=list)
    """Other failure results."""
    seconds: float = 0.0

    HEADER = (
        f"{'killed':32} {'kills':>5} {'puts acked':>10} {'results':>7} {'unacked':>7} {'lost':>4} "
        f"{'dupl.':>5} {'disorder':>8} {'redelivered':>11} {'given up':>8} {'s':>6}"
    )

    def line(self) -> str:
        return (
            f"{self.name:32} {self.kills:5} {self.puts:10} {self.results:7} {self.strangers:7} {self.lost:4} "
            f"{self.duplicates:5} {self.disorder:8} {self.repeated:11} {self.given_up:8} {self.seconds:6.1f}"
        )


@dataclass(frozen=True)
class Put:
    """Acknowledged. `number`: the order in which the only client sent the requests of this priority."""

    request_id: str
    number: int
    priority: int
    index: int


def check(
    report: Report, puts: Sequence[Put], results: Iterable[Item], deliveries: Sequence[Mapping[str, Any]]
) -> None:
    """Fills the numbers in. `deliveries`: `{"takes": [[index, priority, count], …]}` in the order of their takes."""
    found = list(results)
    times = Counter(item.request_id for item in found)
    known = {put.request_id for put in puts}
    report.puts, report.results = len(puts), len(found)
    report.lost = sum(times[put.request_id] == 0 for put in puts)
    report.duplicates = sum(count - 1 for count in times.values())
    report.strangers = len(times.keys() - known)
    failures = [item.data for item in found if LAST_CODE in item.tags]
    report.failed = [data for data in failures if GIVEN_UP not in data]
    report.given_up = len(failures) - len(report.failed)
    report.disorder = _puts_out_of_order(puts) + _deliveries_out_of_order(deliveries, report)


def _puts_out_of_order(puts: Sequence[Put]) -> int:
    wrong = 0
    for priority in (0, 1):
        ordered = sorted((put for put in puts if put.priority == priority), key=lambda put: put.number)
        wrong += sum(later.index <= earlier.index for earlier, later in pairwise(ordered))
    return wrong


def _deliveries_out_of_order(deliveries: Sequence[Mapping[str, Any]], report: Report) -> int:
    """Within a take: priority, then index. Over all takes: first deliveries of a priority by index."""
    newest = {0: 0, 1: 0}
    repeated = set()
    wrong = 0
    for delivery in deliveries:
        takes = delivery["takes"]
        wrong += takes != sorted(takes, key=lambda take: (-take[1], take[0]))
        for index, priority, count in takes:
            if count > 1:
                repeated.add(index)
                continue
            wrong += index <= newest[priority]
            newest[priority] = max(newest[priority], index)
    report.repeated = len(repeated)
    return wrong
