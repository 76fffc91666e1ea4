"""Listings equal the recordings, over the golden model tree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "api"


def recorded(name: str):
    return json.loads((GOLDEN / f"get-{name}.json").read_text())["response"]


def without_folders(row: dict) -> dict:
    return {
        key: Path(value).name if key in ("filename", "config", "path") and value else value
        for key, value in row.items()
    }


@pytest.mark.parametrize("name", ["samplers", "schedulers", "latent-upscale-modes", "prompt-styles", "extensions"])
def test_equal(name, client):
    assert client.get(f"/sdapi/v1/{name}").json() == recorded(name)


@pytest.mark.parametrize("name", ["sd-models", "sd-vae", "loras", "hypernetworks"])
def test_equal_but_for_folders(name, client):
    answer = [without_folders(row) for row in client.get(f"/sdapi/v1/{name}").json()]
    assert answer == [without_folders(row) for row in recorded(name)]


def test_cmd_flags_has_every_key(client):
    answer = client.get("/sdapi/v1/cmd-flags").json()
    assert not set(recorded("cmd-flags")) - set(answer)
    paths = [name for name in answer if name.endswith(("_models_path", "_dir", "_file"))]
    untold = {name for name in paths if isinstance(recorded("cmd-flags").get(name), str) and answer[name] is None}
    assert untold == {"gfpgan_dir", "textual_inversion_templates_dir", "localizations_dir"}
    assert Path(answer["ui_settings_file"]).name == "config.json" and Path(answer["lora_dir"]).name == "Lora"


def test_upscalers_are_those_that_exist(client):
    names = [row["name"] for row in client.get("/sdapi/v1/upscalers").json()]
    assert names == ["None", "Lanczos", "Nearest"]
    assert client.get("/sdapi/v1/upscalers").json() == recorded("upscalers")[:3]


def test_script_info_of_the_built_in_sections(client):
    info = client.get("/sdapi/v1/script-info").json()
    expected = [
        row for row in recorded("script-info") if row["name"] in ("extra options", "refiner", "sampler", "seed")
    ]
    assert sorted(info, key=str) == sorted(expected, key=str)
    listed = client.get("/sdapi/v1/scripts").json()["txt2img"]
    assert listed == ["extra options", "Hypertile", "refiner", "sampler", "seed"]
    assert listed == recorded("scripts")["txt2img"][-5:]


@pytest.mark.parametrize("name", ["refresh-checkpoints", "refresh-vae", "refresh-embeddings", "refresh-loras"])
def test_refresh_answers_null(name, client):
    answer = client.post(f"/sdapi/v1/{name}")
    assert answer.status_code == 200 and answer.json() is None


def test_slash_at_the_end_redirects(client):
    assert client.get("/sdapi/v1/sd-models/", follow_redirects=False).status_code == 307
