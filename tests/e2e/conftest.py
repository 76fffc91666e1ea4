"""One real server for the end-to-end tests: the embedded model beside the golden one, CPU, fp32."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.subprocess_server import ServerProcess, make_models, server_process


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = make_models(tmp_path_factory.mktemp("models") / "models")
    with server_process(tmp_path_factory.mktemp("e2e-server"), models=models) as running:
        yield running
