"""The ControlNet extension's routes, held against its recorded answers."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.parity.cases import GOLDEN


def recorded(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / "api" / f"controlnet-get-{name}.json").read_text())["response"]


def png(width: int = 16, height: int = 8, value: int = 90) -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (value, value // 2, 7)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def pixels(text: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))))


def test_version_and_settings(client):
    assert client.get("/controlnet/version").json() == recorded("version")
    settings = client.get("/controlnet/settings").json()
    assert settings.items() >= recorded("settings").items()
    assert settings["control_net_max_models_num"] == settings["control_net_unit_count"]


@pytest.mark.parametrize("query", ["", "?update=true", "?update=false"])
def test_model_list(client, query):
    assert client.get(f"/controlnet/model_list{query}").json() == recorded("model_list")


def test_model_list_finds_new_files(tmp_path):
    from starlette.testclient import TestClient

    from sdwebui_api.api.factory import create_app
    from tests.support.fakes import fake_services

    services = fake_services(tmp_path, "--controlnet-dir", str(tmp_path))
    client = TestClient(create_app(services))
    (tmp_path / "new.safetensors").write_bytes(b"0")
    assert not any(title.startswith("new") for title in listed(client, "false"))
    assert any(title.startswith("new") for title in listed(client, "true"))


def listed(client, update: str) -> list[str]:
    return client.get("/controlnet/model_list", params={"update": update}).json()["model_list"]


@pytest.mark.parametrize("alias", ["false", "true"])
def test_module_list_is_the_recorded_one_for_what_is_here(client, alias):
    ours = client.get("/controlnet/module_list", params={"alias_names": alias}).json()
    theirs = recorded("module_list-alias_names-true" if alias == "true" else "module_list")
    here = set(ours["module_list"])
    assert here <= set(theirs["module_list"]) and "canny" in here
    assert ours["module_list"] == [name for name in theirs["module_list"] if name in here]
    assert ours["module_detail"] == {name: theirs["module_detail"][name] for name in here}


def test_the_recorded_modules_are_here_but_for_those_that_cannot_be(client):
    missing = set(recorded("module_list")["module_list"]) - set(
        client.get("/controlnet/module_list").json()["module_list"]
    )
    # For SDXL the first three; the last needs MANO, a hand model with a licence of its own.
    assert missing <= {"revision_clipvision", "revision_ignore_prompt", "ip-adapter_pulid", "depth_hand_refiner"}


def test_animals_are_drawn(client):
    pose = {**POSE, "people": [], "animals": [[10, 10, 1, 50, 10, 1, *[0, 0, 0] * 15]]}
    (text,) = client.post("/controlnet/render_openpose_json", json=pose).json()["images"]
    image = pixels(text)
    assert tuple(image[10, 30]) == (255, 255, 255) and not image[40:].any()


def test_control_types_are_the_recorded_ones_for_what_is_here(client):
    ours = client.get("/controlnet/control_types").json()["control_types"]
    theirs = recorded("control_types")["control_types"]
    here = set(ours["All"]["module_list"])
    assert list(ours) == [name for name in theirs if name in ours]
    for name, found in ours.items():
        assert found["module_list"] == [label for label in theirs[name]["module_list"] if label in here], name
        assert found["model_list"] == theirs[name]["model_list"], name
        assert found["default_model"] == theirs[name]["default_model"], name
        wanted = theirs[name]["default_option"]
        assert found["default_option"] == (wanted if wanted in here else found["module_list"][:2][-1]), name


@pytest.mark.parametrize("name", ["controlnet_input_images", "controlnet_images"])
def test_detect(client, name):
    answer = client.post("/controlnet/detect", json={"controlnet_module": "invert", name: [png(), png(value=20)]})
    assert answer.status_code == 200 and answer.json()["info"] == "Success"
    first, second = (pixels(text) for text in answer.json()["images"])
    assert tuple(first[0, 0]) == (165, 210, 248) and tuple(second[0, 0]) == (235, 245, 248)
    assert answer.headers["X-Job-Id"] and "poses" not in answer.json()


def test_detect_shows_a_mask(client):
    body = {
        "controlnet_module": "inpaint_only",
        "controlnet_input_images": [png()],
        "controlnet_masks": [png(value=255)],
    }
    (image,) = client.post("/controlnet/detect", json=body).json()["images"]
    assert pixels(image).shape == (8, 16, 4)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (None, "controlnet_input_images"),
        ({}, "controlnet_input_images"),
        ({"controlnet_module": "canny", "controlnet_images": []}, "controlnet_input_images"),
        ({"controlnet_module": "no such module", "controlnet_input_images": [png()]}, "controlnet_module"),
        ({"controlnet_module": "ip-adapter-auto", "controlnet_input_images": [png()]}, "controlnet_module"),
        ({"controlnet_module": "canny", "controlnet_input_images": ["zzz"]}, "controlnet_input_images.0"),
        ({"controlnet_module": "canny", "controlnet_images": [png(), "zzz"]}, "controlnet_images.1"),
        ({"controlnet_module": "canny", "controlnet_input_images": png()}, "controlnet_input_images"),
        ({"controlnet_module": "inpaint_only", "controlnet_input_images": [png()]}, "controlnet_masks"),
        ({"controlnet_input_images": [png()], "controlnet_masks": [png(), png()]}, "controlnet_masks"),
        ({"controlnet_input_images": [png()], "controlnet_masks": ["zzz"]}, "controlnet_masks.0"),
        ({"controlnet_input_images": [png()], "controlnet_processor_res": "big"}, "controlnet_processor_res"),
        ({"controlnet_input_images": [png()], "controlnet_threshold_a": "x"}, "controlnet_threshold_a"),
        ({"controlnet_input_images": [png()], "low_vram": "perhaps"}, "low_vram"),
    ],
)
def test_malformed_detect_names_the_field(client, body, field):
    answer = client.post("/controlnet/detect", json=body)
    assert answer.status_code == 422
    assert field in [".".join(map(str, problem["loc"][1:])) for problem in answer.json()["detail"]]


def test_endless_maps_are_refused(client):
    body = {"controlnet_module": "canny", "controlnet_input_images": [png(8192, 1)], "controlnet_processor_res": 2048}
    assert client.post("/controlnet/detect", json=body).status_code == 413


POSE = {
    "canvas_width": 60,
    "canvas_height": 80,
    "people": [{"pose_keypoints_2d": [30, 10, 1, 30, 30, 1] + [0, 0, 0] * 16, "face_keypoints_2d": None}],
}


@pytest.mark.parametrize("body", [POSE, [POSE], {"pose_data": [POSE]}])
def test_poses_are_drawn(client, body):
    (text,) = client.post("/controlnet/render_openpose_json", json=body).json()["images"]
    image = pixels(text)
    assert image.shape == (80, 60, 3)
    assert tuple(image[10, 30]) == (255, 0, 0) and tuple(image[30, 30]) == (255, 85, 0)
    assert image[20, 30].any() and not image[60:].any()


def test_shares_of_the_canvas(client):
    person = {"pose_keypoints_2d": [0.5, 0.125, 1, 0.5, 0.375, 1], "hand_left_keypoints_2d": [0.1, 0.9, 1, 0.3, 0.9, 1]}
    (text,) = client.post("/controlnet/render_openpose_json", json={**POSE, "people": [person]}).json()["images"]
    image = pixels(text)
    assert tuple(image[10, 30]) == (255, 0, 0) and tuple(image[72, 6]) == (0, 0, 255) and image[72, 12].any()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (None, "pose_data"),
        ([], "pose_data"),
        ("pose", "pose_data"),
        ([5], "pose_data.0"),
        ([{}], "pose_data.0.canvas_width"),
        ([{**POSE, "canvas_height": -1}], "pose_data.0.canvas_height"),
        ([{**POSE, "canvas_width": 10**9}], "pose_data.0.canvas_width"),
        ([{**POSE, "people": 5}], "pose_data.0.people"),
        ([{**POSE, "people": [None]}], "pose_data.0.people.0"),
        ([{**POSE, "people": [{"pose_keypoints_2d": [1, 2]}]}], "pose_data.0.people.0.pose_keypoints_2d"),
        ([{**POSE, "people": [{"pose_keypoints_2d": ["1", 2, 3]}]}], "pose_data.0.people.0.pose_keypoints_2d"),
        ([{**POSE, "people": [{"face_keypoints_2d": [1e9, 2, 3]}]}], "pose_data.0.people.0.face_keypoints_2d"),
        ([{**POSE, "people": [{"face_keypoints_2d": [10**400, 2, 3]}]}], "pose_data.0.people.0.face_keypoints_2d"),
        ([{**POSE, "animals": 5}], "pose_data.0.animals"),
        ([{**POSE, "animals": [[1, 2]]}], "pose_data.0.animals.0"),
        ([{**POSE, "animals": [{}, 7]}], "pose_data.0.animals.1"),
    ],
)
def test_malformed_poses_name_the_field(client, body, field):
    answer = client.post("/controlnet/render_openpose_json", json=body)
    assert answer.status_code == 422
    assert ".".join(map(str, answer.json()["detail"][0]["loc"][1:])) == field


def test_preprocessors_are_listed_once(client):
    names = client.get("/controlnet/module_list").json()["module_list"]
    assert len(names) == len(set(names)) and names[0] == "none"
