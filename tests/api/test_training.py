"""The four create and train routes over a trainer that learns nothing."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdwebui_api.generation.training_request import TrainingFiles

TRAIN = {"learn_rate": 0.005, "data_root": "faces", "steps": 50}


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    folder = tmp_path / "faces"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "a.png")
    return folder


def embedding(**fields: Any) -> dict[str, Any]:
    return {**TRAIN, "embedding_name": "tiny-ti", **fields}


def missing(answer: Any) -> set[str]:
    assert answer.status_code == 422
    return {row["loc"][-1] for row in answer.json()["detail"] if row["loc"][0] == "body"}


def test_created_files_are_answered(client, services):
    body = {"name": "new one", "num_vectors_per_token": "2", "overwrite_old": False}
    answer = client.post("/sdapi/v1/create/embedding", json=body)
    assert answer.status_code == 200 and answer.headers["X-Job-Id"]
    assert answer.json()["info"].startswith("create embedding filename: ")
    assert answer.json()["info"].endswith("embeddings/new one.pt")
    body = {"name": "net", "enable_sizes": ["768", "320"], "overwrite_old": False, "layer_structure": "1, 2, 1"}
    answer = client.post("/sdapi/v1/create/hypernetwork", json=body)
    assert answer.json()["info"].endswith("hypernetworks/net.pt")


def test_missing_arguments_are_named(client):
    post = client.post
    assert missing(post("/sdapi/v1/create/embedding", json={})) == {"name", "num_vectors_per_token", "overwrite_old"}
    assert missing(post("/sdapi/v1/create/hypernetwork", json={"name": "x"})) == {"enable_sizes", "overwrite_old"}
    assert missing(post("/sdapi/v1/train/embedding", json={})) == {*TRAIN, "embedding_name"}
    assert missing(post("/sdapi/v1/train/hypernetwork", json={})) == {*TRAIN, "hypernetwork_name"}


def test_names_of_existing_files_need_overwrite(client):
    body = {"name": "tiny-ti", "num_vectors_per_token": 1, "overwrite_old": False}
    answer = client.post("/sdapi/v1/create/embedding", json=body)
    assert missing(answer) == {"name"} and "exists already" in answer.text
    assert client.post("/sdapi/v1/create/embedding", json={**body, "overwrite_old": True}).status_code == 200


def test_training_is_answered_as_a1111_does(client, services, faces):
    answer = client.post("/sdapi/v1/train/embedding", json=embedding(id_task="mine", foreign_key=1))
    assert answer.status_code == 200 and answer.headers["X-Job-Id"] == "mine"
    path = services.trainer.trained[0].path
    assert answer.json() == {"info": f"train embedding complete: filename: {path} error: None"}
    body = {**TRAIN, "hypernetwork_name": "tiny-hyper", "save_hypernetwork_every": 0}
    answer = client.post("/sdapi/v1/train/hypernetwork", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["info"].startswith("train embedding complete: filename: ")


def test_the_page_s_arguments_are_understood(client, services, faces):
    """All thirty that A1111's page sends."""
    body = embedding(
        id_task="", batch_size=1, gradient_step=2, log_directory="textual_inversion", training_width=512,
        training_height=512, varsize=False, clip_grad_mode="value", clip_grad_value="0.1", shuffle_tags=True,
        tag_drop_out=0.1, latent_sampling_method="deterministic", use_weight=False, create_image_every=500,
        save_embedding_every=500, template_filename="subject_filewords.txt", save_image_with_stored_embedding=True,
        preview_from_txt2img=True, preview_prompt="a face", preview_negative_prompt="", preview_steps=12,
        preview_sampler_name="Euler a", preview_cfg_scale=7, preview_seed=5, preview_width=128, preview_height=128,
    )  # fmt: skip
    assert client.post("/sdapi/v1/train/embedding", json=body).status_code == 200
    task = services.trainer.trained[0]
    assert task.loop.gradient_step == 2 and task.loop.clipping.mode == "value" and task.rules.width == 512
    assert task.preview is not None and (task.preview.prompt, task.preview.steps) == ("a face", 12)
    assert not task.preview_follows_prompts


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"learn_rate": "often"}, 422, "learn_rate"),
        ({"steps": 0}, 422, "steps"),
        ({"batch_size": -1}, 422, "batch_size"),
        ({"training_width": 100}, 422, "training_width"),
        ({"data_root": "/etc"}, 422, "data_root"),
        ({"data_root": "nowhere"}, 422, "data_root"),
        ({"latent_sampling_method": "twice"}, 422, "latent_sampling_method"),
        ({"clip_grad_mode": "cut"}, 422, "clip_grad_mode"),
        ({"log_directory": "../.."}, 422, "log_directory"),
        ({"embedding_name": "unknown"}, 404, None),
        ({"template_filename": "unknown.txt"}, 404, None),
        ({"preview_sampler_name": "unknown", "create_image_every": 5}, 422, "preview_sampler_name"),
    ],
)
def test_wrong_arguments(client, services, faces, fields, status, field):
    answer = client.post("/sdapi/v1/train/embedding", json=embedding(**fields))
    assert answer.status_code == status, answer.text
    if field:
        assert missing(answer) == {field}
    else:
        assert next(iter(fields)) in answer.json()["errors"]
    assert not services.trainer.trained and not services.runner.jobs()


@pytest.mark.parametrize("body", [[], "x", 5, None])
def test_bodies_that_are_no_objects(client, body):
    for path in ("create/embedding", "create/hypernetwork", "train/embedding", "train/hypernetwork"):
        assert client.post(f"/sdapi/v1/{path}", json=body).status_code == 422


def running(client, services, faces, **fields: Any) -> tuple[threading.Thread, list[Any]]:
    """A training that does not end by itself."""
    services.trainer.gate.clear()
    answers: list[Any] = []
    body = embedding(id_task="long", **fields)
    thread = threading.Thread(
        target=lambda: answers.append(client.post("/sdapi/v1/train/embedding", json=body)), daemon=True
    )
    thread.start()
    while client.get("/sdapi/v1/progress").json()["state"]["sampling_step"] == 0:
        time.sleep(0.01)
    return thread, answers


def test_a_second_training_is_refused_while_one_runs(client, services, faces):
    thread, answers = running(client, services, faces)
    second = client.post("/sdapi/v1/train/embedding", json=embedding())
    assert second.status_code == 429 and "long" in second.json()["detail"] and second.headers["Retry-After"]
    progress = client.get("/sdapi/v1/progress").json()
    assert progress["state"]["job"] == "train-embedding" and progress["state"]["sampling_steps"] == 50
    client.post("/sdapi/v1/interrupt")
    thread.join(60)
    assert answers[0].status_code == 200
    services.trainer.gate.set()
    assert client.post("/sdapi/v1/train/embedding", json=embedding()).status_code == 200


def test_of_two_trainings_at_once_one_is_refused(client, services, faces, monkeypatch):
    """Both are looked at before either is under way."""
    both, plan = threading.Barrier(2, timeout=30), TrainingFiles.training

    def planned(*args: Any) -> Any:
        both.wait()
        return plan(*args)

    monkeypatch.setattr(TrainingFiles, "training", planned)
    services.trainer.gate.clear()

    def train() -> int:
        status = client.post("/sdapi/v1/train/embedding", json=embedding()).status_code
        services.trainer.gate.set()
        return status

    threading.Timer(20.0, services.trainer.gate.set).start()  # so that two that are admitted end too
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(train) for _ in range(2)]
    assert sorted(call.result() for call in calls) == [200, 429]


def test_a_training_can_be_cancelled(client, services, faces):
    thread, answers = running(client, services, faces)
    assert client.delete("/sdapi/v1/jobs/long").status_code == 200
    thread.join(60)
    assert answers[0].status_code == 499
