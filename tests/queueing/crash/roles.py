"""What the victims run: the real worker over a quick stand-in for the engine, the real front end."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sdwebui_api import frontend as front_end
from sdwebui_api import worker_main
from sdwebui_api.api import queue as api_queue
from sdwebui_api.api.eas_answer import failure_body
from sdwebui_api.config.flags import parse_flags
from sdwebui_api.generation.request import GeneratedImage, GenerationRequest, GenerationResult
from sdwebui_api.jobs.job import Job
from sdwebui_api.queueing.model import Consumer, Delivery
from sdwebui_api.queueing.service import QueueService
from sdwebui_api.queueing.settings import QueueSettings, queue_settings
from sdwebui_api.queueing.store import QueueStore
from sdwebui_api.queueing.stores.build import make_store
from tests.queueing.crash.ledger import Ledger
from tests.support.fakes import fake_services, golden_flags


class QuickGenerator:
    """A small picture after 0 to `seconds` seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def run(self, request: GenerationRequest, job: Job) -> GenerationResult:
        time.sleep(random.uniform(0.0, self._seconds))
        picture = GeneratedImage(Image.new("RGB", (8, 8), "grey"), request.prompt)
        return GenerationResult([picture], {"prompt": request.prompt, "seed": 1, "infotexts": [request.prompt]})


class Recorded:
    """A store whose deliveries are written down."""

    def __init__(self, store: QueueStore, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def take(self, queue: str, consumer: Consumer, limit: int, **more: Any) -> list[Delivery]:
        taken = await self._store.take(queue, consumer, limit, **more)
        if taken and "/" not in queue:
            rows = [[found.item.index, found.item.priority, found.count] for found in taken]
            self._ledger.write(worker=consumer.user, takes=rows)
        return taken


def worker(data_dir: str, ledger: str, flags: Sequence[str], seconds: float) -> int:
    """`launch.py worker` over the stand-in."""
    services = fake_services(Path(data_dir), *flags)
    services.runner.concurrency = 4
    services.generator = QuickGenerator(seconds)
    settings = queue_settings(services.flags, Path(data_dir))
    store: Any = Recorded(make_store(settings), Ledger(Path(ledger)))
    services.queue = QueueService(settings, store, failure_body)
    return worker_main.work(services)


def real_worker(data_dir: str, ledger: str, flags: Sequence[str], seconds: float) -> int:
    """`launch.py worker` with the engine and the golden models; a job lasts as long as it lasts."""

    def recorded(settings: QueueSettings) -> Any:
        return Recorded(make_store(settings), Ledger(Path(ledger)))

    api_queue.make_store = recorded
    return worker_main.serve(golden_flags(Path(data_dir), "--ckpt", "tiny-sd.safetensors", *flags))


def frontend(flags: Sequence[str]) -> int:
    """`launch.py frontend`."""
    return front_end.serve(parse_flags(flags, environ={}))
