"""Results by address from the real engine: grids, seeds, detected maps, scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from tests.e2e.test_controlnet import CHECKPOINT, SMALL, UNIT
from tests.support.server import RunningServer


def generate(server: RunningServer, keys: dict[str, Any], path: str = "txt2img", **fields: Any) -> dict[str, Any]:
    body = {**SMALL, **fields, "alwayson_scripts": {"save_dir": "eas", **keys}}
    answer = httpx.post(f"{server.url}/sdapi/v1/{path}", json=body, timeout=120)
    assert answer.status_code == 200, answer.text[:1000]
    assert answer.json()["images"] == []
    return answer.json()


def text_of(path: str) -> str:
    return str(Image.open(path).info["parameters"])


def test_grid_and_pictures(server: RunningServer) -> None:
    keys = {"sd_model_checkpoint": "tiny-sd.safetensors", "id_task": "14837"}
    answer = generate(server, keys, batch_size=2, n_iter=2, seed=10)
    parameters = answer["parameters"]
    grid, *pictures = parameters["image_url"].split(",")
    assert parameters["seed"] == "10,11,12,13" and len(pictures) == 4
    assert [text_of(path).split("Seed: ")[1].split(",")[0] for path in pictures] == ["10", "11", "12", "13"]
    assert all("Model: tiny-sd," in text_of(path) for path in pictures)
    assert Image.open(grid).size == (128, 128) and "/txt2img-grids/" in grid
    assert parameters["total_time"] > 0 and json.loads(answer["info"])["warnings"] == []
    # Nothing else was written: neither by the output settings nor left over.
    written = {str(file) for file in Path(grid).parents[2].rglob("*") if file.is_file()}
    assert written >= {grid, *pictures} and not [path for path in written if ".saving-" in path]


def test_the_pictures_are_those_of_an_ordinary_answer(server: RunningServer) -> None:
    url = generate(server, {}, **CHECKPOINT)["parameters"]["image_url"]
    plain = httpx.post(f"{server.url}/sdapi/v1/txt2img", json={**SMALL, **CHECKPOINT}, timeout=120).json()
    again = httpx.post(f"{server.url}/sdapi/v1/png-info", json={"image": plain["images"][0]}, timeout=60).json()
    assert text_of(url) == again["info"]


def test_detected_maps(server: RunningServer) -> None:
    answer = generate(server, {"controlnet": {"args": [UNIT]}}, **CHECKPOINT)
    (picture,), (found,) = (answer["parameters"][name].split(",") for name in ("image_url", "image_mask_url"))
    assert "ControlNet 0" in text_of(picture) and answer["parameters"]["seed"] == "1"
    day = Path(picture).parent.name
    assert Path(found).parent == Path(picture).parents[2] / "controlnet_mask" / day
    assert Image.open(found).size == (64, 64)


def test_seeds_of_a_scripts_pictures(server: RunningServer) -> None:
    script = {
        "script_name": "prompts from file or textbox",
        "script_args": [False, False, "start", "a\n--prompt b --seed 77"],
    }
    parameters = generate(server, {}, **script, **CHECKPOINT)["parameters"]
    assert len(parameters["image_url"].split(",")) == 2 and parameters["seed"].split(",")[1] == "77"
