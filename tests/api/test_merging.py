"""POST merge-checkpoints over the golden checkpoint."""

from __future__ import annotations

import shutil

import pytest
from safetensors import safe_open

from tests.support.fakes import GOLDEN

URL = "/sdapi/v1/merge-checkpoints"


@pytest.fixture
def checkpoint(services):
    """The catalog looks into the folder that merged files go to."""
    source = GOLDEN / "models" / "Stable-diffusion" / "tiny-sd.safetensors"
    catalog = services.catalog.checkpoints
    catalog._folders = (*catalog._folders, services.merge_folder)
    services.merge_folder.mkdir()
    shutil.copyfile(source, services.merge_folder / "other.safetensors")
    catalog.refresh()
    return catalog


def test_the_new_checkpoint_is_listed(client, services, checkpoint):
    body = {
        "primary_model_name": "tiny-sd", "secondary_model_name": "other", "multiplier": 0.5, "custom_name": "merged",
        "bake_in_vae": "tiny-vae", "discard_weights": "model_ema",
    }  # fmt: skip
    answer = client.post(URL, json=body)
    assert answer.status_code == 200, answer.text
    row = next(row for row in client.get("/sdapi/v1/sd-models").json() if row["model_name"] == "merged")
    assert answer.json()["title"] == row["title"] and answer.json()["filename"] == row["filename"]
    with safe_open(row["filename"], "pt") as file:
        assert "sd_merge_recipe" in file.metadata()
    job = client.get(f"/sdapi/v1/jobs/{answer.headers['X-Job-Id']}").json()
    assert job["kind"] == "merge" and job["state"] == "done" and job["sampling_steps"] > 100
    again = client.post(URL, json=body)
    assert again.status_code == 422 and "custom_name" in again.text


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "primary_model_name"),
        ({"primary_model_name": "nothing"}, 404, "primary_model_name"),
        ({"primary_model_name": "tiny-sd"}, 422, "secondary_model_name"),
        ({"primary_model_name": "tiny-sd", "secondary_model_name": "nothing"}, 404, "secondary_model_name"),
        ({"primary_model_name": "tiny-sd", "bake_in_vae": "nothing"}, 404, "bake_in_vae"),
        ({"primary_model_name": "tiny-sd", "interp_method": "Sum"}, 422, "interp_method"),
        ({"primary_model_name": "tiny-sd", "checkpoint_format": "ckpt"}, 422, "checkpoint_format"),
        (
            {"primary_model_name": "tiny-sd", "interp_method": "No interpolation", "custom_name": "../x"},
            422,
            "custom_name",
        ),
    ],
)
def test_mistakes_name_their_field(client, body, status, field):
    answer = client.post(URL, json=body)
    assert answer.status_code == status and field in answer.text, answer.text
