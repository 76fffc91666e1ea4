"""The API, its queue and its worker in one process, as `launch.py --nowebui` runs them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.support.fronts import Front, http, run_whole_server, wait_until

BODY = {"prompt": "a lighthouse", "steps": 5, "width": 8, "height": 8}


@pytest.fixture
def whole(queue_url, tmp_path):
    with run_whole_server(queue_url, tmp_path, "--subpath", "sd") as (front, services):
        yield front, services
        services.generator.gate.set()


def put(front: Front, path: str, body: object, **query: str) -> str:
    """The request id."""
    answer = http.post(f"{front.input}/{path}", content=json.dumps(body), params=query)
    assert answer.status_code == 200
    return str(answer.headers["X-Eas-Queueservice-Request-Id"])


def result_of(front: Front, request_id: str) -> tuple[dict, dict]:
    """Tags and body."""
    query = {"requestId": request_id, "_raw_": "false", "_timeout_": "10s"}
    answer = http.get(front.sink, params=query)
    assert answer.status_code == 200, "no result came"
    (row,) = answer.json()
    return row["tags"], json.loads(base64.b64decode(row["data"]))


def job(front: Front, id: str) -> dict:
    answer = http.get(f"{front.url}/sdapi/v1/jobs/{id}")
    assert answer.status_code == 200
    return answer.json()


def test_every_post_endpoint_can_be_queued_by_its_path(whole):
    front, _ = whole
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    image = base64.b64encode(picture.getvalue()).decode()
    asked = {
        "sdapi/v1/txt2img": (BODY, "parameters"),
        "sdapi/v1/png-info": ({"image": image}, "info"),
        "sdapi/v1/extra-single-image": ({"image": image, "upscaling_resize": 1}, "image"),
        "": (BODY, "parameters"),
    }
    ids = {path: put(front, path, body, task_id=f"t-{path}") for path, (body, _) in asked.items()}
    for path, id in ids.items():
        tags, body = result_of(front, id)
        assert tags == {"requestId": id, "task_id": f"t-{path}"}
        assert asked[path][1] in body
    tags, body = result_of(front, put(front, "sdapi/v1/no-such-route", {}))
    assert tags["lastCode"] == "404" and body["parameters"]["status"] == 404


def test_the_queue_itself_cannot_be_queued(whole):
    front, _ = whole
    for path in ("api/predict/sd_async/sdapi/v1/txt2img", "sd/api/predict/sd_async"):
        tags, body = result_of(front, put(front, path, {}))
        assert tags["lastCode"] == "405" == str(body["parameters"]["status"])
    assert http.get(front.input, params={"_attrs_": "true"}).json()["stream.lastEntry"] == "2"


def test_a_failure_has_room_for_its_own_tags_beside_all_that_a_client_may_send(whole):
    front, _ = whole
    tags = {f"tag{number}": "v" for number in range(150)}
    found, body = result_of(front, put(front, "sdapi/v1/txt2img", {"steps": -1}, **tags))
    assert found["lastCode"] == "422" and body["parameters"]["status"] == 422
    assert len(found) == 152
    refused = http.post(front.input, params={**tags, "one": "more"})
    assert refused.status_code == 400 and "150 tags" in refused.text


def test_a_task_is_known_by_its_request_id_from_put_to_result(whole):
    front, services = whole
    services.generator.gate.clear()
    id = put(front, "sdapi/v1/txt2img", BODY, requestId="mine", task_id="t")
    wait_until(lambda: job(front, id)["progress"] > 0)
    running = job(front, id)
    assert running["state"] == "running" and running["kind"] == "txt2img" and running["sampling_steps"] == 5
    assert running["index"] == 1 and running["tags"] == {"requestId": "mine", "task_id": "t"}
    assert running["result"] is None
    services.generator.gate.set()
    wait_until(lambda: job(front, id)["state"] == "done")
    done = job(front, id)
    assert Path(done["result"]["parameters"]["image_url"]).is_file() and done["progress"] == 1
    assert result_of(front, id)[1] == done["result"]


def test_a_running_task_can_be_cancelled(whole):
    front, services = whole
    services.generator.gate.clear()
    id = put(front, "sdapi/v1/txt2img", BODY)
    wait_until(lambda: job(front, id)["state"] == "running")
    http.delete(f"{front.url}/sdapi/v1/jobs/{id}")
    wait_until(lambda: job(front, id)["state"] == "failed")
    tags, body = result_of(front, id)
    assert tags["lastCode"] == "499" and body["parameters"]["status"] == 499
    wait_until(lambda: services.runner.running == 0)
    assert front.length() == 0


def test_synchronous_calls_work_beside_it(whole):
    front, _ = whole
    ids = [put(front, "sdapi/v1/txt2img", BODY) for _ in range(3)]
    answer = http.post(f"{front.url}/sdapi/v1/txt2img", json=BODY)
    assert answer.status_code == 200 and len(answer.json()["images"]) == 1
    for id in ids:
        assert result_of(front, id)[1]["parameters"]["status"] == 0


def test_the_server_lists_and_documents_itself_as_before(whole):
    front, _ = whole
    assert http.get(f"{front.url}/sdapi/v1/samplers").status_code == 200
    assert http.get(f"{front.url}/openapi.json").status_code == 200
    assert http.get(f"{front.url}/health/ready").status_code == 200
