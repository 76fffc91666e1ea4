"""The stores under test. Every contract test runs once per entry of BACKENDS.

A backend is a context manager that yields a maker of unopened stores. All stores that one maker makes look at the same
fresh queues, each as another process would.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from sdwebui_api.queueing.store import QueueStore
from sdwebui_api.queueing.stores.redis import RedisStore
from sdwebui_api.queueing.stores.sqlite import SqliteStore
from tests.support.redis_server import shared_redis

MakeStore = Callable[..., QueueStore]
StoreFactory = Callable[..., Awaitable[QueueStore]]


@contextmanager
def sqlite_backend(folder: Path) -> Iterator[MakeStore]:
    yield lambda **options: SqliteStore(folder / "queue.sqlite3", **options)


@contextmanager
def redis_backend(folder: Path) -> Iterator[MakeStore]:
    server = shared_redis()
    assert server.ask("FLUSHALL") == b"+OK"
    yield lambda **options: RedisStore(server.url, **options)


BACKENDS: dict[str, Callable[[Path], AbstractContextManager[MakeStore]]] = {
    "redis": redis_backend,
    "sqlite": sqlite_backend,
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=sorted(BACKENDS))
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """Makes unopened stores. Option `remember`: seconds that consumers who left are remembered (else 300)."""
    with BACKENDS[request.param](tmp_path) as make:
        yield make


@pytest.fixture
async def store_factory(make_store: MakeStore) -> AsyncIterator[StoreFactory]:
    """`await store_factory(**options)`: one more opened store on the same queues; closed after the test."""
    opened: list[QueueStore] = []

    async def open_one(**options: object) -> QueueStore:
        store = make_store(**options)
        await store.open()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(store_factory: StoreFactory) -> QueueStore:
    return await store_factory()
