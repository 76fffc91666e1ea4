"""Keeps the figure of every replayed case and prints the worst of them at the end of the run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.server import RunningServer, run_golden_server

RESULTS = pytest.StashKey[dict[str, float]]()


@pytest.fixture(scope="session")
def golden_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The real server on the recorded model tree: CPU, fp32, one request at a time in each step."""
    with run_golden_server(tmp_path_factory.mktemp("golden-server")) as server:
        yield server


@pytest.fixture(scope="session")
def lenient_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The same with `--lenient`: names that A1111 does not know fall back as silently as there."""
    with run_golden_server(tmp_path_factory.mktemp("lenient-server"), "--lenient") as server:
        yield server


@pytest.fixture
def results(request: pytest.FixtureRequest) -> dict[str, float]:
    return request.config.stash.setdefault(RESULTS, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    results = config.stash.get(RESULTS, {})
    if not results:
        return
    ranked = sorted(results.items(), key=lambda row: row[1])
    above = sum(value >= 65 for value in results.values())
    terminalreporter.section("parity with A1111 1.10.1")
    terminalreporter.write_line(f"{len(results)} cases with pictures, {above} of them at 65 dB or more. The worst ten:")
    for name, value in ranked[:10]:
        terminalreporter.write_line(f"  {value:6.1f} dB  {name}")
