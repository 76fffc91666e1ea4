"""One real server for the end-to-end tests: the embedded model beside the golden one, CPU, fp32, step batching on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.server import RunningServer, run_golden_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with run_golden_server(tmp_path_factory.mktemp("e2e-server"), "--max-step-batch", "4") as running:
        yield running
