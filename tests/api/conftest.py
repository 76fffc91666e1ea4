from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from sdwebui_api.api.factory import create_app
from tests.support.fakes import fake_services


@pytest.fixture
def services(tmp_path):
    services = fake_services(tmp_path)
    yield services
    services.generator.gate.set()
    services.runner.drain(5)


@pytest.fixture
def client(services):
    return TestClient(create_app(services), raise_server_exceptions=False)
