"""The store that an address names."""

from __future__ import annotations

from sdwebui_api.queueing.settings import QueueSettings
from sdwebui_api.queueing.store import QueueStore


def make_store(settings: QueueSettings) -> QueueStore:
    """Not opened yet: nothing is connected or created. The other kind's libraries are not imported."""
    if settings.url.startswith("sqlite:"):
        from sdwebui_api.queueing.stores.sqlite import SqliteStore

        return SqliteStore(settings.sqlite_file)
    from sdwebui_api.queueing.stores.redis import RedisStore

    return RedisStore(settings.url)
