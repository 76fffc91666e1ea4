"""The worker over real stores: what it writes for every kind of answer, what it takes, how it stops."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sdwebui_api.errors import BadRequest
from sdwebui_api.queueing.frames import json_row
from sdwebui_api.queueing.inprocess import Answer
from sdwebui_api.queueing.model import HIGH, LAST_CODE, REQUEST_ID
from sdwebui_api.queueing.store import QueueStore, StoreUnavailable
from sdwebui_api.queueing.worker import Worker, WorkerRules
from tests.queueing.stores.conftest import BACKENDS, MakeStore
from tests.queueing.stores.support import CALLBACKS, LONG, QUEUE, REAR, SINK, item, joined, length, one, put_many
from tests.queueing.support import Stage, at_work, result_of, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=sorted(BACKENDS))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[QueueStore]:
    make: MakeStore
    with BACKENDS[request.param](tmp_path) as make:
        opened = make()
        await opened.open()
        yield opened
        await opened.close()


def failure(status: int, message: str, *, id_task: str | None = None) -> bytes:
    parameters = {"id_task": id_task, "status": status, "error_msg": message}
    return json.dumps({"images": [], "parameters": parameters}).encode()


def worker(store: QueueStore, stage: Stage, room: int = 1, foreign: int = 0, **rules: object) -> Worker:
    settled = WorkerRules(QUEUE, room, **rules)  # type: ignore[arg-type]
    return Worker(lambda: store, stage, settled, failure, foreign=lambda ids: foreign)


def parameters(data: bytes) -> dict[str, object]:
    found: dict[str, object] = json.loads(data)["parameters"]
    return found


# -- what is written -------------------------------------------------------------------------------


async def test_an_answer_goes_to_the_sink_with_the_tags_of_its_request(store):
    await store.put(QUEUE, item(b"{}", rid="r", task_id="t1", path="sdapi/v1/img2img", _user_="ann"))
    stage = Stage(Answer(200, b'{"images": ["x"]}'))
    async with at_work(worker(store, stage)):
        result = await result_of(store, "r", SINK)
        await until(lambda: _is_empty(store))
    assert result.data == b'{"images": ["x"]}'
    assert result.tags == {REQUEST_ID: "r", "task_id": "t1", "_user_": "ann"}
    assert json_row(result)["tags"] == {REQUEST_ID: "r", "task_id": "t1"}
    ((path, body, call),) = stage.calls
    assert (path, body) == ("sdapi/v1/img2img", b"{}")
    assert (call.request_id, call.tags, call.user) == ("r", {REQUEST_ID: "r", "task_id": "t1"}, "ann")
    assert (await store.task(QUEUE, "r")).state == "done"


async def _is_empty(store: QueueStore) -> bool:
    return await length(store) == 0


async def test_a_request_without_a_path_goes_to_the_default_endpoint(store):
    await store.put(QUEUE, item(b"{}", rid="r"))
    stage = Stage()
    async with at_work(worker(store, stage)):
        await result_of(store, "r", SINK)
    assert stage.calls[0][0] == "sdapi/v1/txt2img"


async def test_another_status_is_a_failure_and_says_so_in_a_tag(store):
    await store.put(QUEUE, item(b"{}", rid="r", task_id="t"))
    async with at_work(worker(store, Stage(Answer(422, b'{"detail": "steps"}')))):
        result = await result_of(store, "r", SINK)
    assert result.tags == {REQUEST_ID: "r", "task_id": "t", LAST_CODE: "422"}
    assert result.data == b'{"detail": "steps"}'
    assert (await store.task(QUEUE, "r")).state == "failed"
    assert await length(store, REAR) == 0


async def test_a_failure_of_the_server_is_also_a_dead_letter(store):
    await store.put(QUEUE, item(b'{"prompt": 1}', rid="r", path="sdapi/v1/img2img"))
    async with at_work(worker(store, Stage(Answer(500, b"")))):
        result = await result_of(store, "r", SINK)
    assert parameters(result.data)["status"] == 500
    dead = await result_of(store, "r", REAR)
    assert (dead.data, dead.path, dead.tags["deadReason"]) == (b'{"prompt": 1}', "sdapi/v1/img2img", "status 500")


async def test_an_empty_answer_is_not_passed_on(store):
    await store.put(QUEUE, item(b"{}", rid="r"))
    async with at_work(worker(store, Stage(Answer(200, b"")))):
        await until(lambda: _is_empty(store))
    assert await length(store, SINK) == 0
    assert (await store.task(QUEUE, "r")).state == "done"


async def test_a_result_that_is_too_large_becomes_a_failure_that_names_save_dir(store):
    await store.put(QUEUE, item(b"{}", rid="r"))
    async with at_work(worker(store, Stage(Answer(200, b"", too_large=True)))):
        result = await result_of(store, "r", SINK)
    assert result.tags[LAST_CODE] == "413"
    assert "save_dir" in str(parameters(result.data)["error_msg"])


@pytest.mark.parametrize("status", [200, 422])
async def test_a_callback_is_written_with_the_result(store, status):
    body = b'{"prompt": "a", "callback_url": "https://me.example/done"}'
    await store.put(QUEUE, item(body, rid="r", task_id="t"))
    stage = Stage(Answer(status, b'{"images": []}'))
    async with at_work(worker(store, stage)):
        result = await result_of(store, "r", SINK)
    callback = await result_of(store, "r", CALLBACKS)
    assert callback.data == result.data
    assert callback.tags == {**result.tags, "_callback_url_": "https://me.example/done"}
    assert json.loads(stage.bodies[0]) == {"prompt": "a"}


async def test_an_address_that_may_not_be_called_fails_the_request(store):
    async def check(url: str) -> None:
        raise BadRequest(f"{url} is not allowed", field="callback_url", status=403)

    stage = Stage()
    await store.put(QUEUE, item(b'{"callback_url": "http://10.0.0.1/"}', rid="r"))
    async with at_work(Worker(lambda: store, stage, WorkerRules(QUEUE, 1), failure, check_callback=check)):
        result = await result_of(store, "r", SINK)
    assert result.tags[LAST_CODE] == "403" and stage.calls == []
    assert parameters(result.data)["error_msg"] == "callback_url: http://10.0.0.1/ is not allowed"
    assert await length(store, CALLBACKS) == 0


async def test_the_callback_of_the_put_wins(store):
    body = b'{"callback_url": "https://body.example/"}'
    await store.put(QUEUE, item(body, rid="r", _callback_url_="https://query.example/"))
    async with at_work(worker(store, Stage())):
        callback = await result_of(store, "r", CALLBACKS)
    assert callback.tags["_callback_url_"] == "https://query.example/"


async def test_a_callback_that_is_no_text_is_none(store):
    """Of a request that is given up nobody has looked at the address."""
    await store.put(QUEUE, item(b'{"callback_url": "http://me.example/\\ud800"}', rid="r"))
    dead = await joined(store, "dead-worker")
    await one(store, dead, lease=LONG)
    await store.leave(QUEUE, dead)
    async with at_work(worker(store, Stage())):
        result = await result_of(store, "r", SINK)
    assert result.tags[LAST_CODE] == "500" and await length(store, CALLBACKS) == 0


# -- how often -------------------------------------------------------------------------------------


async def test_what_was_tried_often_enough_is_not_run_again(store):
    body = b'{"callback_url": "https://me.example/", "alwayson_scripts": {"id_task": "i"}}'
    await store.put(QUEUE, item(body, rid="r", task_id="t"))
    dead = await joined(store, "dead-worker")
    await one(store, dead)
    await store.leave(QUEUE, dead)
    stage = Stage()
    async with at_work(worker(store, stage)):
        result = await result_of(store, "r", SINK)
    assert stage.calls == []
    assert (result.tags["task_id"], result.tags[LAST_CODE]) == ("t", "500")
    assert (parameters(result.data)["status"], parameters(result.data)["id_task"]) == (500, "i")
    assert "once" in (await result_of(store, "r", REAR)).tags["deadReason"]
    assert (await result_of(store, "r", CALLBACKS)).data == result.data


async def test_two_deliveries_allow_a_second_try(store):
    await store.put(QUEUE, item(b"{}", rid="r"))
    dead = await joined(store, "dead-worker")
    await one(store, dead)
    await store.leave(QUEUE, dead)
    async with at_work(worker(store, Stage(), max_delivery=2)):
        result = await result_of(store, "r", SINK)
    assert LAST_CODE not in result.tags


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_is_busy_is_asked_again(store, status):
    await store.put(QUEUE, item(b"{}", rid="r"))
    stage = Stage(Answer(status, b"later", retry_after=0.1), Answer(200, b"now"))
    async with at_work(worker(store, stage)):
        assert (await result_of(store, "r", SINK)).data == b"now"
    assert len(stage.calls) == 2


async def test_a_server_that_stays_unavailable_fails_the_request(store):
    await store.put(QUEUE, item(b"{}", rid="r"))
    stage = Stage(Answer(503, b"no checkpoint", retry_after=0.05))
    async with at_work(worker(store, stage, patience=0.3)):
        assert (await result_of(store, "r", SINK)).tags[LAST_CODE] == "503"


async def test_a_lease_is_renewed_while_the_work_lasts(store):
    await store.put(QUEUE, item(b"{}", rid="r"))
    slow, idle = Stage(), Stage()
    slow.gate.clear()
    first = worker(store, slow, lease=2.5)
    async with at_work(first):
        await until(lambda: slow.running == 1)
        async with at_work(worker(store, idle, lease=2.5)):
            await asyncio.sleep(5.0)
            slow.gate.set()
            result = await result_of(store, "r", SINK)
    assert idle.calls == [] and LAST_CODE not in result.tags


async def test_the_work_of_a_dead_worker_comes_back_when_its_lease_ends(store):
    await store.put(QUEUE, item(b"{}", rid="r"))
    await one(store, await joined(store, "dead-worker"), lease=0.5)
    async with at_work(worker(store, Stage(), max_delivery=2)):
        await result_of(store, "r", SINK)


async def test_what_a_user_deletes_is_not_computed_any_further(store):
    """Within a second or two, however long the lease is."""
    receipt = await store.put(QUEUE, item(b"{}", rid="r"))
    stage = Stage()
    stage.gate.clear()
    async with at_work(worker(store, stage, lease=600)):
        await until(lambda: stage.running)
        await store.delete(QUEUE, [receipt.index])
        await until(lambda: stage.cancelled == ["r"])
    assert await length(store, SINK) == 0


# -- what is taken ---------------------------------------------------------------------------------


async def test_high_priority_first_then_the_oldest(store):
    for name, priority in (("a", 0), ("b", 0), ("C", HIGH), ("d", 0), ("E", HIGH)):
        await store.put(QUEUE, item(name.encode(), rid=name, priority=priority))
    stage = Stage()
    async with at_work(worker(store, stage)):
        await until(lambda: len(stage.calls) == 5)
    assert stage.bodies == [b"C", b"E", b"a", b"b", b"d"]


async def test_never_more_side_by_side_than_there_is_room(store):
    await put_many(store, 9)
    stage = Stage()
    stage.gate.clear()
    async with at_work(worker(store, stage, room=3)):
        await until(lambda: stage.running == 3)
        await asyncio.sleep(0.2)
        assert len(stage.calls) == 3
        stage.gate.set()
        await until(lambda: len(stage.calls) == 9)
    assert stage.most == 3


@pytest.mark.parametrize(("foreign", "taken"), [(2, 2), (9, 1)])
async def test_other_jobs_take_from_the_room_but_for_one_place(store, foreign, taken):
    await put_many(store, 5)
    stage = Stage()
    stage.gate.clear()
    async with at_work(worker(store, stage, room=4, foreign=foreign)):
        await until(lambda: stage.running == taken)
        await asyncio.sleep(0.3)
        assert stage.running == taken
        stage.gate.set()


async def test_a_full_sink_stops_the_taking_until_somebody_reads(store):
    await put_many(store, 5)
    stage = Stage()
    async with at_work(worker(store, stage, max_sink_length=2)):
        await until(lambda: _has(store, SINK, 2))
        await asyncio.sleep(1.5)
        # One more may be computed and wait for its place.
        assert await length(store, SINK) == 2 and len(stage.calls) <= 3
        read = 0
        while read < 5:
            await until(lambda: length(store, SINK))
            read += len(await store.get(SINK, length=5, delete=True))
    assert sorted(stage.bodies) == [b"0", b"1", b"2", b"3", b"4"]


async def _has(store: QueueStore, queue: str, count: int) -> bool:
    return await length(store, queue) == count


# -- stopping and surviving ------------------------------------------------------------------------


async def test_stopping_finishes_what_runs_and_takes_nothing_more(store):
    await put_many(store, 5)
    stage = Stage()
    stage.gate.clear()
    stopped = worker(store, stage, room=2)
    async with at_work(stopped):
        await until(lambda: stage.running == 2)
        stopped.stop()
        await asyncio.sleep(0.2)
        stage.gate.set()
    assert len(stage.calls) == 2
    assert await length(store, SINK) == 2 and await length(store) == 3
    assert (await store.stats(QUEUE)).waiting == 3


async def test_what_takes_too_long_is_handed_back_as_if_it_had_never_been_taken(store):
    await put_many(store, 3)
    stage = Stage()
    stage.gate.clear()
    stopped = worker(store, stage, room=2, drain_seconds=0.2)
    async with at_work(stopped):
        await until(lambda: stage.running == 2)
    assert len(stage.cancelled) == 2
    other = await joined(store, "other")
    assert [delivery.count for delivery in await store.take(QUEUE, other, 9, lease=9)] == [1, 1, 1]


async def test_a_request_that_meets_the_shutdown_is_handed_back(store):
    await put_many(store, 1)
    stage = Stage(Answer(503, b"shutting down", retry_after=0.05))
    async with at_work(worker(store, stage)):
        await until(lambda: stage.calls)
    other = await joined(store, "other")
    assert [delivery.count for delivery in await store.take(QUEUE, other, 9, lease=9)] == [1]
    assert await length(store, SINK) == 0


class Faulty:
    """A store that is out of reach for the next `outages` calls of each of `methods`."""

    def __init__(self, store: QueueStore, outages: int, *methods: str) -> None:
        self._store = store
        self._left = dict.fromkeys(methods, outages)

    def __getattr__(self, name: str) -> object:
        if self._left.get(name, 0) > 0:
            self._left[name] -= 1
            return self._gone
        return getattr(self._store, name)

    def left(self, method: str) -> int:
        return self._left[method]

    async def _gone(self, *args: object, **more: object) -> None:
        raise StoreUnavailable("it is gone")


async def test_results_wait_for_a_store_that_is_gone(store):
    await put_many(store, 3)
    stage = Stage()
    faulty = Faulty(store, 2, "join", "take", "finish", "renew")
    async with at_work(worker(faulty, stage, room=2, lease=3.0)):  # type: ignore[arg-type]
        await until(lambda: _has(store, SINK, 3))
    assert len(stage.calls) == 3


async def test_an_outage_is_one_line_and_not_one_per_try(store, caplog):
    caplog.set_level(logging.INFO, "sdwebui_api.queueing.consuming")
    faulty = Faulty(store, 3, "join")

    def said(text: str) -> int:
        return sum(text in record.getMessage() for record in caplog.records)

    async with at_work(worker(faulty, Stage())):  # type: ignore[arg-type]
        await until(lambda: said(f"{QUEUE} is reached again"))
    assert faulty.left("join") == 0 and said("cannot be reached: it is gone") == 1


async def test_a_worker_that_the_store_forgot_joins_again(store):
    stage = Stage()
    one_of_two = worker(store, stage)
    async with at_work(one_of_two):
        await until(lambda: _consumers(store))
        await store.leave(QUEUE, one_of_two.consumer)
        await put_many(store, 2)
        await until(lambda: _has(store, SINK, 2))


async def _consumers(store: QueueStore) -> bool:
    return any(found.status == "Running" for found in (await store.stats(QUEUE)).consumers)
