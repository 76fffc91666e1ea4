"""kill -9 at random moments: nothing acknowledged is lost, nothing is answered twice, the order is kept.

Real processes, real stores, the real worker code over a quick stand-in for the engine; 25 moments per row, 200 with
`--full`. The table is printed at the end of the run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence

import pytest

from sdwebui_api.queueing.model import rear_of, sink_of
from tests.queueing.crash.check import Report, check
from tests.queueing.crash.ledger import read_ledger
from tests.queueing.crash.rig import SERVICE, Client, Looker, Rig, rig
from tests.queueing.crash.zygote import Zygote

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

MOMENTS, ALL_MOMENTS, ENGINE_MOMENTS = 25, 200, 10
AT_WORK = 0.8
"""How many of the kills hit a system that works again; the others may hit one that is just starting."""
ROWS = [
    ("sqlite", ["frontend"]),
    ("sqlite", ["worker"]),
    ("sqlite", ["frontend", "worker"]),
    ("redis", ["frontend"]),
    ("redis", ["worker"]),
    ("redis", ["frontend", "worker"]),
    ("redis", ["redis"]),
]


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[Report]]:
    rows: list[Report] = []
    yield rows
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n\n" + "\n".join([Report.HEADER, *(row.line() for row in rows)]))


@pytest.mark.parametrize(("store", "victims"), ROWS, ids=[f"{store}-{'+'.join(names)}" for store, names in ROWS])
def test_nothing_is_lost_when_processes_are_killed(store, victims, zygote, table, tmp_path, request):
    moments = ALL_MOMENTS if request.config.getoption("--full") else MOMENTS
    report = Report(f"{' + '.join(victims)} ({store})")
    table.append(report)
    with rig(zygote, tmp_path, store) as running:
        look_after(running, victims, moments, report)
    assert_sound(report)
    assert report.kills == moments


@pytest.fixture(scope="module")
def zygote_with_engine() -> Iterator[Zygote]:
    """Has imported the networks too: diffusers and transformers themselves fetch them when they are asked for."""
    engine = ["sdwebui_api.engine.engine", "sdwebui_api.generation.generator", "sdwebui_api.scripting.build"]
    networks = [
        "diffusers.models.unets.unet_2d_condition", "diffusers.models.autoencoders.autoencoder_kl",
        "transformers.models.clip.modeling_clip", "transformers.models.clip.tokenization_clip",
    ]  # fmt: skip
    made = Zygote("tests.queueing.crash.roles", *networks, "sdwebui_api.app", *engine)
    yield made
    made.close()


def test_nothing_is_lost_when_the_real_engine_is_killed(zygote_with_engine, table, tmp_path):
    report = Report("worker with the engine (sqlite)")
    table.append(report)
    with rig(zygote_with_engine, tmp_path, "sqlite", role="real_worker", tries=20) as running:
        look_after(running, ["worker"], ENGINE_MOMENTS, report)
    assert_sound(report)
    assert report.kills == ENGINE_MOMENTS


def assert_sound(report: Report) -> None:
    assert (report.lost, report.duplicates, report.disorder) == (0, 0, 0), report
    assert not report.failed, report.failed[0]
    assert report.strangers <= report.doubtful
    assert report.results == report.puts + report.strangers >= report.kills


def look_after(running: Rig, victims: Sequence[str], moments: int, report: Report, patience: float = 240.0) -> None:
    """Puts, kills, waits until everything is answered, counts."""
    begun = time.monotonic()
    looker = Looker(running.url, running.folder)
    client = Client(running.address, looker)
    client.start()
    try:
        for _ in range(moments):
            if random.random() < AT_WORK:
                _until_more_results(looker, running, patience)
            time.sleep(random.uniform(0.0, 0.15))
            running.crash(victims)
            report.kills += 1
        _until_more_results(looker, running, patience)
        client.stop()
        _until_empty(looker, running, patience)
        report.seconds = time.monotonic() - begun
        report.doubtful = client.doubtful
        check(report, client.puts, looker.results(), list(read_ledger(running.ledger)))
        assert looker.length(rear_of(SERVICE)) == report.given_up
    finally:
        looker.close()


def _until_more_results(looker: Looker, running: Rig, patience: float) -> None:
    """Everything works again: the next kill hits a living system."""
    before = looker.length(sink_of(SERVICE))
    end = time.monotonic() + patience
    while looker.length(sink_of(SERVICE)) <= before:
        assert time.monotonic() < end, f"no results any more:\n{running.logs()}"
        time.sleep(0.02)


def _until_empty(looker: Looker, running: Rig, patience: float) -> None:
    end = time.monotonic() + patience
    while looker.length():
        assert time.monotonic() < end, f"{looker.length()} requests are left:\n{running.logs()}"
        time.sleep(0.05)
