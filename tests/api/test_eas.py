"""The keys of EAS clients in `alwayson_scripts`, and answers by address, through the doors."""

from __future__ import annotations

import asyncio
import base64
import errno
import io
import json
import re
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from sdwebui_api.api.eas_answer import failure_body
from sdwebui_api.api.factory import create_app
from sdwebui_api.config.flags import parse_flags
from sdwebui_api.errors import OutOfMemory
from sdwebui_api.generation.request import GeneratedImage, GenerationRequest, GenerationResult
from sdwebui_api.jobs.job import Job
from sdwebui_api.queueing.call import QueuedCall
from sdwebui_api.queueing.inprocess import InProcess
from sdwebui_api.storage import local
from sdwebui_api.storage import roots as storage_roots
from tests.support.fakes import FakeGenerator, fake_services
from tests.support.object_server import BUCKET, KEY_ID, SECRET, object_server

T2I, I2I = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
SMALL = {"steps": 2, "width": 64, "height": 64, "prompt": "a red apple"}
NAME = r"\d{6}-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
FAILURE_KEYS = {"id_task", "status", "image_url", "seed", "error_msg", "image_mask_url", "total_time"}


def picture(color: str = "grey") -> Image.Image:
    return Image.new("RGB", (16, 16), color)


def encoded(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


class Studio(FakeGenerator):
    """A generator that answers all that a generation can: grid, samples with their seeds, mask, detected map."""

    def __init__(self, saves_to: Path | None = None) -> None:
        super().__init__()
        self.saves_to = saves_to

    def run(self, request: GenerationRequest, job: Job) -> GenerationResult:
        self.requests.append(request)
        job.set_total(1)
        count = request.n_iter * request.batch_size
        seeds = [request.seed + index for index in range(count)]
        images = [
            GeneratedImage(picture(), f"{request.prompt}, Seed: 7\nSteps: 2, Sampler: Euler, Seed: {seed}, Size: 16x16")
            for seed in seeds
        ]
        if count > 1 and request.options.return_grid and not request.do_not_save_grid:
            images.insert(0, GeneratedImage(picture("red"), "grid's text", "grid"))
        if self.saves_to is not None and not request.do_not_save_samples:
            for index, image in enumerate(images):
                image.saved_path = str(self.saves_to / f"{index:05}-{image.role}.png")
        maps = [GeneratedImage(picture("white"), "", "detected_map")] if request.always_on else []
        return GenerationResult([*images, *maps], {"seed": seeds[0], "all_seeds": seeds, "infotexts": []})


@pytest.fixture
def studio(services: Any) -> Studio:
    services.generator = Studio()
    return services.generator


def ask(client: TestClient, path: str = T2I, status: int = 200, keys: Any = None, **fields: Any) -> dict[str, Any]:
    answer = client.post(path, json={**SMALL, **fields, "alwayson_scripts": keys or {}})
    assert answer.status_code == status, answer.text
    return answer.json()


# -- keys ------------------------------------------------------------------------------------------------------------


def test_checkpoint_and_vae_of_one_request(client, services):
    keys = {"sd_model_checkpoint": "TINY-SD", "sd_vae": "tiny-vae", "id_task": "14837", "uid": 7}
    body = ask(client, keys=keys, override_settings={"sd_vae": "None"})
    request = services.generator.requests[-1]
    assert request.checkpoint.path.stem == "tiny-sd" and request.vae.name == "tiny-vae.safetensors"
    # Without save_dir the answer is A1111's, the keys in its echo.
    assert len(body["images"]) == 1 and body["parameters"]["alwayson_scripts"] == keys
    stored = services.options.snapshot()
    assert (stored.sd_vae, stored.sd_model_checkpoint) == ("Automatic", None)
    ask(client, keys={"sd_vae": None, "sd_model_checkpoint": ""}, override_settings={"sd_vae": "None"})
    assert services.generator.requests[-1].vae is None


def test_the_vaes_that_are_no_files(client, services):
    for name in ("None", "Automatic"):
        ask(client, keys={"sd_vae": name})
    assert [request.vae for request in services.generator.requests] == [None, None]


def test_keys_never_become_settings(client, services):
    ask(client, keys={"sd_vae": "tiny-vae.safetensors"}, override_settings_restore_afterwards=False)
    assert services.options.snapshot().sd_vae == "Automatic"


@pytest.mark.parametrize(
    ("key", "value", "nearest"),
    [("sd_model_checkpoint", "tiny-sdd.safetensors", "tiny-sd.safetensors"), ("sd_vae", "tiny-wae", "tiny-vae")],
)
def test_unknown_models(client, services, key, value, nearest):
    body = ask(client, status=404, keys={key: value})
    assert body["error"] == "NotFound" and value in body["detail"] and nearest in body["errors"]
    assert body["errors"].startswith(f"alwayson_scripts.{key}: ")
    assert not services.generator.requests


@pytest.mark.parametrize("key", ["sd_model_checkpoint", "sd_vae", "save_dir", "id_task", "uid"])
@pytest.mark.parametrize("value", [{"args": ["x"]}, ["x"], True, "x" * 5000], ids=["object", "list", "bool", "long"])
def test_keys_are_texts(client, key, value):
    body = ask(client, status=422, keys={key: value})
    assert body["detail"][0]["loc"] == ["body", "alwayson_scripts", key]


def test_a_misspelled_key_is_told_the_keys(client):
    body = ask(client, status=422, keys={"savedir": "x"})
    assert "save_dir" in body["errors"]


def test_image_link_in_txt2img_is_reported(client, services):
    body = ask(client, keys={"image_link": "http://127.0.0.1:1/x.png"})
    assert "image_link" in json.loads(body["info"])["warnings"][0]


# -- answers ---------------------------------------------------------------------------------------------------------


def test_an_answer_by_address(client, studio, tmp_path):
    keys = {"save_dir": "tmp/outputs", "id_task": "14837", "uid": "u"}
    body = ask(client, keys=keys, n_iter=2, seed=41, save_images=False)
    assert list(body) == ["images", "parameters", "info"] and body["images"] == []
    parameters = body["parameters"]
    assert list(parameters) == ["id_task", "status", "image_url", "seed", "error_msg", "image_mask_url", "total_time"]
    root, day = re.escape(str(tmp_path / "tmp/outputs")), datetime.now().strftime("%Y-%m-%d")
    grid, *samples = parameters.pop("image_url").split(",")
    assert re.fullmatch(rf"{root}/txt2img-grids/{day}/grid-{NAME}\.png", grid)
    assert len(samples) == 2
    for url, seed in zip(samples, (41, 42), strict=True):
        assert re.fullmatch(rf"{root}/txt2img-images/{day}/{NAME}-{seed}\.png", url)
        assert f"Seed: {seed}" in Image.open(url).info["parameters"]
    assert Image.open(grid).getpixel((0, 0)) == (255, 0, 0)
    assert 0 <= parameters.pop("total_time") < 60
    assert parameters == {"id_task": "14837", "status": 0, "seed": "41,42", "error_msg": "", "image_mask_url": ""}
    assert json.loads(body["info"])["hostname"] == socket.gethostname()
    # The output settings had no part in it.
    assert studio.requests[-1].do_not_save_samples and not (tmp_path / "outputs").exists()


def test_no_grid_of_one_picture_nor_where_it_is_not_wanted(client, studio):
    assert "," not in ask(client, keys={"save_dir": "x"})["parameters"]["image_url"]
    options = {"return_grid": False, "grid_save": False}
    for fields in ({"override_settings": options}, {"do_not_save_grid": True}):
        body = ask(client, keys={"save_dir": "x"}, n_iter=2, **fields)
        assert body["parameters"]["image_url"].count(",") == 1 and "-grids/" not in body["parameters"]["image_url"]


def test_id_task_is_null_when_it_is_not_given(client, studio):
    assert ask(client, keys={"save_dir": "x"})["parameters"]["id_task"] is None


def test_img2img_has_its_own_folders(client, studio, tmp_path):
    body = ask(client, I2I, keys={"save_dir": str(tmp_path / "x")}, init_images=[encoded(picture())])
    assert body["parameters"]["image_url"].startswith(f"{tmp_path}/x/img2img-images/")


def test_formats_follow_the_settings(client, studio):
    url = ask(client, keys={"save_dir": "x"}, override_settings={"samples_format": "jpg"})["parameters"]["image_url"]
    assert url.endswith(".jpg") and Image.open(url).format == "JPEG"


def test_seeds_of_pictures_without_infotext(client, services):
    """The plain fake says nothing of seeds but the request's."""
    body = ask(client, keys={"save_dir": "x"}, seed=5, n_iter=2)
    assert body["parameters"]["seed"] == "5,5"


@pytest.mark.parametrize("save_dir", ["../x", "/etc", "a/../../x", "oss://bucket/x"])
def test_save_dir_outside_of_the_roots(client, services, tmp_path, save_dir):
    body = ask(client, status=403, keys={"save_dir": save_dir, "id_task": "t1"})
    assert body["error"] == "BadRequest" and str(tmp_path) in body["detail"]
    assert body["parameters"]["status"] == 403 and body["parameters"]["id_task"] == "t1"
    assert str(tmp_path) in body["parameters"]["error_msg"] and not services.generator.requests


def test_no_save_dir_does_harm(cloud, bucket, tmp_path):
    """Random pieces of paths and addresses: a picture below a root, or a 4xx; never a 500, never a file elsewhere."""
    pieces = [
        "..", "/", "\\", ".", "x" * 250, "é", "\u202e", "\x01", "\n", ",", "oss://", "s3://", "pictures/results",
        "%2e%2e", "~", "C:", "CON", " ", "outputs", "config.json", "?", "#", "@", ":80", "🦊", "/mnt/oss", "\ud800",
    ]  # fmt: skip
    random, statuses = Random(5), Counter()
    client = TestClient(create_app(cloud), raise_server_exceptions=False)
    inside = set(tmp_path.parent.iterdir())
    for _ in range(250):
        keys = {"save_dir": "".join(random.choices(pieces, k=random.randint(1, 4)))}
        answer = client.post(T2I, content=json.dumps({**SMALL, "alwayson_scripts": keys}))
        statuses[answer.status_code] += 1
    assert set(statuses) == {200, 403, 422} and min(statuses.values()) > 10, statuses
    assert set(tmp_path.parent.iterdir()) == inside
    assert bucket.objects and all(key.startswith("results/") for key in bucket.objects)


# -- failures --------------------------------------------------------------------------------------------------------


def test_failures_have_both_forms(client, services):
    services.generator.error = OutOfMemory("no memory is left")
    body = ask(client, status=507, keys={"save_dir": "x", "id_task": "t2"})
    assert (body["error"], body["detail"], body["images"]) == ("OutOfMemoryError", "no memory is left", [])
    assert set(body["parameters"]) == FAILURE_KEYS and "hostname" in json.loads(body["info"])
    assert body["parameters"] | {"total_time": 0} == {
        "id_task": "t2", "status": 507, "image_url": "", "seed": "", "error_msg": "no memory is left",
        "image_mask_url": "", "total_time": 0,
    }  # fmt: skip
    assert set(ask(client, status=507)) == {"error", "detail", "body", "errors"}


def test_fields_that_are_wrong_have_both_forms(client):
    body = ask(client, status=422, keys={"save_dir": "x", "id_task": 9}, n_iter="many")
    assert body["detail"][0]["loc"] == ["body", "n_iter"]
    assert body["parameters"]["id_task"] == "9" and "n_iter" in body["parameters"]["error_msg"]


def test_bugs_have_both_forms(client, services):
    services.generator.error = RuntimeError("a secret of the house")
    body = ask(client, status=500, keys={"save_dir": "x"})
    assert body["parameters"]["status"] == 500 and "secret" not in json.dumps(body)


def test_a_full_disk_fails_the_request(client, studio, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local.os, "fsync", full)
    body = ask(client, status=507, keys={"save_dir": "x"})
    assert body["error"] == "NotStored" and "No space left" in body["parameters"]["error_msg"]


def test_failures_of_requests_that_no_route_saw():
    body = json.loads(failure_body(500, "tried too often", id_task="t3"))
    assert body["error"] == "InternalServerError" and body["parameters"]["status"] == 500
    assert body["parameters"]["id_task"] == "t3" and body["parameters"]["error_msg"] == "tried too often"
    assert json.loads(failure_body(599, "x"))["parameters"]["status"] == 599


# -- queued, and under --nowebui -------------------------------------------------------------------------------------


def queued(services: Any, path: str, body: Any, id: str = "request-1") -> tuple[int, dict[str, Any]]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = asyncio.run(InProcess(create_app(services)).post(path, content, QueuedCall(id)))
    return answer.status, json.loads(answer.body)


def test_queued_requests_are_always_answered_by_address(services, studio, tmp_path):
    status, body = queued(services, "sdapi/v1/txt2img", {**SMALL, "alwayson_scripts": {"id_task": "t4"}})
    assert status == 200 and body["images"] == [] and body["parameters"]["id_task"] == "t4"
    url = body["parameters"]["image_url"]
    assert url.startswith(f"{tmp_path}/outputs/txt2img-images/") and Path(url).exists()
    assert json.loads(body["info"])["job_id"] == "request-1"
    status, body = queued(services, "sdapi/v1/img2img", {**SMALL, "init_images": [encoded(picture())]}, "request-2")
    assert status == 200 and "/outputs/img2img-images/" in body["parameters"]["image_url"]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("sdapi/v1/txt2img", {**SMALL, "steps": "many"}, 422),
        ("sdapi/v1/txt2img", {**SMALL, "sampler_name": "no such"}, 400),
        ("sdapi/v1/txt2img", b"{'prompt': 'a'}", 422),
        ("sdapi/v1/txt2img", b'{"prompt": "\xff"}', 400),
        ("sdapi/v1/no-such", {}, 404),
        ("sdapi/v1/extra-single-image", {"image": "no base64!"}, 422),
    ],
)
def test_every_failure_of_a_queued_request_has_both_forms(services, path, body, expected):
    status, answer = queued(services, path, body)
    assert status == expected == answer["parameters"]["status"]
    assert {"error", "detail", "images", "info"} <= set(answer) and set(answer["parameters"]) == FAILURE_KEYS
    assert answer["parameters"]["error_msg"]


def test_other_routes_answer_a_queued_request_as_ever(services):
    status, body = queued(services, "sdapi/v1/png-info", {"image": encoded(picture())})
    assert status == 200 and set(body) == {"info", "items", "parameters"}


def test_save_images_without_a_page(client, services, tmp_path):
    """The golden flags say --nowebui: what the output settings saved is answered, and not written again."""
    services.generator = Studio(tmp_path / "saved")
    body = ask(client, save_images=True, n_iter=2, seed=3, keys={"id_task": "t6"})
    names = [f"{tmp_path}/saved/{name}.png" for name in ("00000-grid", "00001-sample", "00002-sample")]
    assert body["parameters"]["image_url"].split(",") == names and body["parameters"]["seed"] == "3,4"
    assert not (tmp_path / "saved").exists() and not (tmp_path / "outputs").exists()
    _, body = queued(services, "sdapi/v1/txt2img", {**SMALL, "save_images": True})
    assert body["parameters"]["image_url"] == f"{tmp_path}/saved/00000-sample.png"
    # Clients of A1111 get A1111's answer.
    assert len(ask(client, save_images=True)["images"]) == 1
    # An explicit save_dir is written besides.
    body = ask(client, save_images=True, keys={"save_dir": "x"})
    assert body["parameters"]["image_url"].startswith(f"{tmp_path}/x/txt2img-images/")


def test_save_images_that_saved_nothing(client, studio):
    assert len(ask(client, save_images=True, keys={"uid": "u"})["images"]) == 1


def test_save_images_with_a_page(tmp_path):
    services = fake_services(tmp_path)
    services.flags = parse_flags(["--data-dir", str(tmp_path)], environ={})
    services.generator = Studio(tmp_path / "saved")
    body = ask(TestClient(create_app(services)), save_images=True, keys={"uid": "u"})
    assert len(body["images"]) == 1 and "prompt" in body["parameters"]


# -- buckets ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", SECRET)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with object_server() as running:
        yield running


@pytest.fixture
def cloud(bucket, tmp_path):
    """Services with the bucket below `results`, also mounted as /mnt/oss."""
    flags = ["--oss-endpoint", bucket.url, "--oss-bucket", BUCKET, "--oss-prefix", "results", "--oss-mount", "/mnt/oss"]
    services = fake_services(tmp_path, *flags)
    services.generator = Studio()
    return services


@pytest.mark.parametrize("save_dir", ["oss://pictures/results/x", "/mnt/oss/x"])
def test_results_in_a_bucket(cloud, bucket, save_dir):
    body = ask(TestClient(create_app(cloud)), keys={"save_dir": save_dir}, n_iter=2, seed=1)
    urls = body["parameters"]["image_url"].split(",")
    assert len(urls) == 3 and all(url.startswith(f"{save_dir}/txt2img-") for url in urls)
    for url in urls:
        key = url.replace(save_dir, "results/x")
        assert Image.open(io.BytesIO(bucket.objects[key])).size == (16, 16)
        assert bucket.content_types[key] == "image/png"


def test_failing_uploads_lose_nothing(cloud, bucket):
    bucket.faults += ["503", "truncated", "reset", "lost answer", "damaged"]
    body = ask(TestClient(create_app(cloud)), keys={"save_dir": "/mnt/oss"}, n_iter=4)
    keys = [url.replace("/mnt/oss", "results") for url in body["parameters"]["image_url"].split(",")]
    assert not bucket.faults and sorted(bucket.objects) == sorted(keys)
    assert all(Image.open(io.BytesIO(data)).size == (16, 16) for data in bucket.objects.values())


def test_a_bucket_that_refuses_fails_the_request_and_keeps_the_pictures(cloud, bucket, tmp_path):
    bucket.faults += ["403"] * 3
    body = ask(TestClient(create_app(cloud)), status=502, keys={"save_dir": "/mnt/oss", "id_task": "t5"}, n_iter=2)
    assert body["error"] == "NotStored" and body["parameters"]["id_task"] == "t5" and not bucket.objects
    kept = sorted(str(path) for path in (tmp_path / "outputs").rglob("*.png"))
    assert len(kept) == 3 and all(path in body["parameters"]["error_msg"] for path in kept)


def test_queued_results_go_into_the_bucket(cloud, bucket):
    _, body = queued(cloud, "sdapi/v1/txt2img", SMALL)
    assert body["parameters"]["image_url"].startswith("oss://pictures/results/outputs/txt2img-images/")
    assert len(bucket.objects) == 1


def test_start_images_from_the_bucket(cloud, bucket):
    bucket.objects["results/start.png"] = base64.b64decode(encoded(picture("blue")))
    client = TestClient(create_app(cloud))
    address = "oss://pictures/results/start.png"
    for fields in (
        {"keys": {"image_link": address, "save_dir": "x"}, "init_images": []},
        {"keys": {"save_dir": "x"}, "init_images": [address], "mask": address},
    ):
        ask(client, I2I, **fields)
        assert cloud.generator.requests[-1].init.images[0].getpixel((0, 0)) == (0, 0, 255)
    assert all(how == "signed oss v1" for method, _, how in bucket.requests if method == "GET")


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("oss://pictures/results/none.png", 404),
        ("oss://pictures/secret.png", 403),
        ("oss://another/results/start.png", 403),
        ("oss://pictures/results/no-picture.png", 422),
        ("s3://pictures/x.png", 422),
    ],
)
def test_start_images_that_cannot_be_had(cloud, bucket, address, status):
    bucket.objects |= {"secret.png": b"x", "results/no-picture.png": b"this is no picture"}
    body = ask(TestClient(create_app(cloud)), I2I, status=status, keys={"image_link": address})
    assert "image_link" in json.dumps(body) or "init_images" in json.dumps(body)
    assert not cloud.generator.requests


def test_without_results_a_save_dir_is_refused(client, services):
    services.results = None
    assert ask(client, status=422, keys={"save_dir": "x"})["detail"][0]["loc"][-1] == "save_dir"


# -- bodies that are no JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('{"save_images": True}', "True is not JSON, write true"),
        ('{"enable_hr": False}', "False is not JSON, write false"),
        ('{"mask": None}', "None is not JSON, write null"),
        ('{"steps": 2, # quick\n "seed": 1}', "JSON has no comments"),
        ('{"steps": 2 // quick\n}', "JSON has no comments"),
        ('{"steps": /* two */ 2}', "JSON has no comments"),
        ('# my request\n{"steps": 2}', "JSON has no comments"),
        ('{"steps": 2}  # done', "JSON has no comments"),
        ("{'steps': 2}", "double quotes"),
        ('{"steps": 2,}', "no comma before"),
        ('{"styles": ["a",]}', "no comma before"),
    ],
)
def test_python_and_javascript_bodies(client, services, body, told):
    answer = client.post(T2I, content=body, headers={"Content-Type": "application/json"})
    problem = answer.json()["detail"][0]
    assert answer.status_code == 422 and problem["type"] == "json_invalid" and problem["loc"][0] == "body"
    assert told in problem["msg"] and "line " in problem["msg"] and told in answer.json()["errors"]
    assert not services.generator.requests


def test_other_broken_bodies_are_told_where(client):
    answer = client.post(T2I, content='{"steps": 2\n "seed": 1}', headers={"Content-Type": "application/json"})
    assert answer.json()["detail"][0]["msg"].endswith("line 2 column 2")


def test_a_server_that_stops_waits_for_pictures_that_are_being_written(tmp_path, monkeypatch):
    """Jobs end before their pictures lie where they belong: SIGTERM must not come between."""
    written, begun, go_on = [], threading.Event(), threading.Event()

    def slowly(path: Path, data: bytes) -> Path:
        begun.set()
        assert go_on.wait(60)
        written.append(path)
        return path

    monkeypatch.setattr(storage_roots, "write_file", slowly)
    services = fake_services(tmp_path)
    services.generator = Studio()
    assert services.results.settle(0)
    client = TestClient(create_app(services))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, client, keys={"save_dir": "x"})
        assert begun.wait(60) and services.runner.drain(60)
        assert not services.results.settle(0.05) and not written
        go_on.set()
        assert services.results.settle(60) and written
        assert answer.result(60)["parameters"]["image_url"] == str(written[0])
