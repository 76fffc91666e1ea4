"""What a front end tells Prometheus, over each store."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.fronts import PATIENCE, Front, run_front


def samples(front: Front) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of the labels' names) → value."""
    answer = httpx.get(f"{front.url}/metrics", timeout=60)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_depth_and_age_of_the_queues(front):
    before = samples(front)
    assert before["sdwebui_queue_up", "sd_async"] == 1
    assert before["sdwebui_queue_items", "input", "sd_async", "waiting"] == 0
    assert before["sdwebui_queue_oldest_seconds", "input", "sd_async"] == 0
    for _ in range(3):
        httpx.post(
            f"{front.url}/api/predict/sd_async/sdapi/v1/txt2img?task_id=a", content=b"{}", timeout=60
        ).raise_for_status()
    after = samples(front)
    items = [after["sdwebui_queue_items", "input", "sd_async", state] for state in ("waiting", "delivered")]
    assert items == [3, 0]
    assert after["sdwebui_queue_oldest_seconds", "input", "sd_async"] > 0
    others = [after["sdwebui_queue_items", queue, "sd_async", "waiting"] for queue in ("sink", "rear", "callbacks")]
    assert others == [0, 0, 0]
    put = "sdwebui_http_requests_total", "http", "POST", "/api/predict/{service}", "200"
    assert after[put] == 3


@pytest.mark.parametrize("path", ["/nothing-here-1", "/nothing-here-2"])
def test_paths_of_clients_make_no_labels(plain_front, path):
    httpx.get(plain_front.url + path, timeout=60)
    text = httpx.get(f"{plain_front.url}/metrics", timeout=60).text
    assert path not in text and 'route="other"' in text


def test_a_consumer_and_what_it_holds(front):
    front.put()
    front.put()
    with front.watch(uid="w", _index_=0, _window_=1) as watcher:
        watcher.recv(PATIENCE)
        found = samples(front)
        assert found["sdwebui_queue_consumers", "input", "sd_async"] == 1
        assert found["sdwebui_queue_items", "input", "sd_async", "delivered"] == 1
        assert found["sdwebui_queue_items", "input", "sd_async", "waiting"] == 1


def test_a_store_that_is_away_is_no_failure_of_the_scrape(tmp_path):
    """Prometheus keeps what there is, and an alert can be set on `queue_up`."""
    from sdwebui_api.queueing.store import StoreUnavailable

    with run_front(f"sqlite:///{tmp_path}/queue.sqlite3", tmp_path / "data") as front:
        assert front.queue is not None

        async def fail(*_: object, **__: object) -> None:
            raise StoreUnavailable("gone")

        front.queue.store.stats = fail  # type: ignore[method-assign]
        found = samples(front)
    assert found["sdwebui_queue_up", "sd_async"] == 0
    assert ("sdwebui_queue_items", "input", "sd_async", "waiting") not in found
