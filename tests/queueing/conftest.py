"""A fresh queue per test, over each store, and a front end on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.queueing.crash.zygote import Zygote
from tests.support.fronts import Front, run_front
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Forks front ends and workers over a stand-in for the engine."""
    stores = "sdwebui_api.queueing.stores"
    made = Zygote("tests.queueing.crash.roles", f"{stores}.sqlite", f"{stores}.redis")
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "redis"])
def queue_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a store that holds nothing."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/queue.sqlite3"
    server: RedisServer = request.getfixturevalue("redis_server")
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    return str(server.url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/queue.sqlite3"


@pytest.fixture
def front(queue_url: str, tmp_path: Path) -> Iterator[Front]:
    with run_front(queue_url, tmp_path / "data") as running:
        yield running


@pytest.fixture(scope="module")
def plain_front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """One per file, for what depends on no store and leaves nothing behind."""
    folder = tmp_path_factory.mktemp("front")
    with run_front(f"sqlite:///{folder}/queue.sqlite3", folder) as running:
        yield running
