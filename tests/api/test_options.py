"""GET and POST options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from sdwebui_api.api.factory import create_app
from sdwebui_api.api.options import store_options
from sdwebui_api.config.options import OptionStore
from sdwebui_api.errors import BadRequest
from tests.support.fakes import fake_services

GOLDEN = Path(__file__).parents[1] / "golden" / "api" / "get-options.json"
URL = "/sdapi/v1/options"


def test_keys_and_values_equal_the_recording(client):
    recorded = {
        key: value
        for key, value in json.loads(GOLDEN.read_text())["response"].items()
        if not key.endswith("_explanation") and key != "settings_in_ui"
    }
    answer = client.get(URL).json()
    assert set(recorded) - set(answer) == set()
    different = {
        key for key in recorded if answer[key] != recorded[key] or type(answer[key]) is not type(recorded[key])
    }
    assert different == set()


def test_whole_object_can_be_posted_back(client):
    values = client.get(URL).json()
    assert client.post(URL, json={**values, "forge_preset": "x", "none": None}).status_code == 200
    assert client.get(URL).json() == values


def test_whole_object_can_be_posted_back_where_nothing_may_change(tmp_path):
    services = fake_services(tmp_path)
    services.options = OptionStore(tmp_path / "frozen.json", frozen=True)
    client = TestClient(create_app(services))
    values = client.get(URL).json()
    assert client.post(URL, json=values).status_code == 200
    answer = client.post(URL, json={**values, "jpeg_quality": 61})
    assert answer.status_code == 422 and answer.json()["detail"][0]["loc"] == ["body", "jpeg_quality"]


def test_checkpoint_is_stored_as_its_title(client):
    assert client.post(URL, json={"sd_model_checkpoint": "tiny-sd"}).json() is None
    answer = client.get(URL).json()
    assert answer["sd_model_checkpoint"] == "tiny-sd.safetensors [a22b8a45be]"
    assert answer["sd_checkpoint_hash"].startswith("a22b8a45be")


@pytest.mark.parametrize("color", ["white", "rgb(0, 255, 0)", "#0f0c"])
def test_colors_are_all_that_a1111_draws_with(color, client):
    assert client.post(URL, json={"img2img_background_color": color}).status_code == 200
    assert client.get(URL).json()["img2img_background_color"] == color
    assert client.post(URL, json={"img2img_background_color": "no color"}).status_code == 422


def test_all_or_nothing(client):
    before = client.get(URL).json()
    answer = client.post(URL, json={"CLIP_stop_at_last_layers": 2, "sd_model_checkpoint": "nope"})
    assert answer.status_code == 404 and "sd_model_checkpoint" in answer.json()["errors"]
    answer = client.post(URL, json={"CLIP_stop_at_last_layers": 2, "eta_ddim": "much"})
    assert answer.status_code == 422 and answer.json()["detail"][0]["loc"] == ["body", "eta_ddim"]
    assert client.get(URL).json() == before


@pytest.mark.parametrize("folder", ["/srv/pictures", "../elsewhere", "model_store", "outputs/../.."])
def test_a_folder_nothing_could_be_saved_in_is_not_taken_over(folder, client, caplog):
    before = client.get(URL).json()
    assert client.post(URL, json={"jpeg_quality": 61, "outdir_txt2img_samples": folder}).status_code == 200
    assert client.get(URL).json() == before | {"jpeg_quality": 61}
    assert "outdir_txt2img_samples is not taken over" in caplog.text
    assert client.post(URL, json={"outdir_txt2img_samples": "outputs/mine", "outdir_samples": ""}).status_code == 200


def test_the_page_is_told_of_such_a_folder(services):
    with pytest.raises(BadRequest, match="outputs") as refused:
        store_options(services, {"outdir_txt2img_samples": "/srv/pictures"})
    assert refused.value.field == "options.outdir_txt2img_samples"


def test_a_folder_of_the_settings_file_can_be_posted_back(tmp_path):
    """Of a WebUI that ran here before."""
    (tmp_path / "config.json").write_text(json.dumps({"outdir_txt2img_samples": "/srv/pictures"}))
    client = TestClient(create_app(fake_services(tmp_path)))
    values = client.get(URL).json()
    assert values["outdir_txt2img_samples"] == "/srv/pictures"
    assert client.post(URL, json={**values, "jpeg_quality": 61}).status_code == 200


def test_overrides_belong_to_the_request(client, services):
    body = {"override_settings": {"CLIP_stop_at_last_layers": 3}, "steps": 1, "width": 8, "height": 8}
    client.post("/sdapi/v1/txt2img", json=body)
    assert services.generator.requests[-1].options.CLIP_stop_at_last_layers == 3
    assert client.get(URL).json()["CLIP_stop_at_last_layers"] == 1
    client.post("/sdapi/v1/txt2img", json={**body, "override_settings_restore_afterwards": False})
    assert client.get(URL).json()["CLIP_stop_at_last_layers"] == 3


def test_overrides_that_cannot_be_stored_do_not_cost_the_pictures(tmp_path):
    services = fake_services(tmp_path)
    services.options = OptionStore(tmp_path / "frozen.json", frozen=True)
    body = {"override_settings": {"CLIP_stop_at_last_layers": 3}, "override_settings_restore_afterwards": False}
    answer = TestClient(create_app(services)).post("/sdapi/v1/txt2img", json=body | {"steps": 1})
    assert answer.status_code == 200
    assert "not stored" in json.loads(answer.json()["info"])["warnings"][0]


def test_lists_are_persisted(client):
    body = {"override_settings": {"quicksettings_list": ["a", "b"]}, "override_settings_restore_afterwards": False}
    assert client.post("/sdapi/v1/txt2img", json=body | {"steps": 1}).status_code == 200
    assert client.get(URL).json()["quicksettings_list"] == ["a", "b"]
