"""Preprocessors for people through the real server: files put beside it, found at the next request."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.control import pose_files
from tests.control.test_pose_preprocessors import white_at, write_dwpose
from tests.support.server import RunningServer

MODEL = "control_sd15_tiny_canny"
SMALL = {"prompt": "a red apple", "seed": 1, "steps": 2, "width": 64, "height": 64, "sampler_name": "Euler"}
CHECKPOINT = {"override_settings": {"sd_model_checkpoint": "tiny-sd"}}


@pytest.fixture(scope="module")
def annotators(server: RunningServer) -> Path:
    folder = server.data_dir / "extensions" / "sd-webui-controlnet" / "annotator" / "downloads"
    write_dwpose(folder, box=(240.0, 320.0))
    pose_files.write_openpose(folder)
    return folder


def encoded(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def decoded(text: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def detect(server: RunningServer, module: str, *pictures: np.ndarray, resolution: int = 640) -> httpx.Response:
    body = {
        "controlnet_module": module,
        "controlnet_input_images": [encoded(picture) for picture in pictures],
        "controlnet_processor_res": resolution,
    }
    return httpx.post(f"{server.url}/controlnet/detect", json=body, timeout=120)


def test_detect_answers_maps_and_poses(server: RunningServer, annotators: Path) -> None:
    answer = detect(server, "dw_openpose_full", white_at((304, 304)), white_at((200, 240), (440, 240)))
    assert answer.status_code == 200, answer.text[:500]
    first, second = answer.json()["poses"]
    assert first["canvas_width"] == first["canvas_height"] == 640
    nose = first["people"][0]["pose_keypoints_2d"][:3]
    assert nose == pytest.approx([308, 308 + 400 * (20 / 160 - 0.5), 1], abs=1)
    assert len(first["people"]) == 1 and len(second["people"]) == 2
    drawn = httpx.post(f"{server.url}/controlnet/render_openpose_json", json=answer.json()["poses"], timeout=60).json()
    for ours, again in zip(answer.json()["images"], drawn["images"], strict=True):
        assert np.array_equal(decoded(ours), decoded(again))


@pytest.mark.parametrize("module", ["openpose", "openpose_full"])
def test_the_original_files_run(server: RunningServer, annotators: Path, module: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    answer = detect(server, module, noise, resolution=64)
    assert answer.status_code == 200, answer.text[:500]
    assert decoded(answer.json()["images"][0]).shape == (64, 96, 3)
    (pose,) = answer.json()["poses"]
    assert (pose["canvas_width"], pose["canvas_height"]) == (96, 64)


@pytest.mark.parametrize(
    ("module", "file"),
    [
        ("animal_openpose", "rtmpose-m_ap10k_256.onnx"),
        ("densepose", "densepose_r50_fpn_dl.torchscript"),
        ("densepose_parula", "densepose_r50_fpn_dl.torchscript"),
        ("mediapipe_face", "face_landmarker.task"),
        ("instant_id_face_keypoints", "scrfd_10g_bnkps.onnx"),
        ("facexlib", "detection_Resnet50_Final.pth"),
    ],
)
def test_missing_files_are_named(server: RunningServer, annotators: Path, module: str, file: str) -> None:
    answer = detect(server, module, white_at(), resolution=64)
    assert answer.status_code == 404
    assert file in answer.text and "annotators" in answer.text and "controlnet_module" in answer.text


def generate(server: RunningServer, picture: np.ndarray, **unit: Any) -> list[np.ndarray]:
    given = {"module": "dw_openpose_full", "model": MODEL, "image": encoded(picture), "processor_res": 640, **unit}
    body = {**SMALL, **CHECKPOINT, "alwayson_scripts": {"controlnet": {"args": [{"enabled": True, **given}]}}}
    answer = httpx.post(f"{server.url}/sdapi/v1/txt2img", json=body, timeout=120)
    assert answer.status_code == 200, answer.text[:1000]
    return [decoded(text) for text in answer.json()["images"]]


def test_a_unit_reads_the_skeleton(server: RunningServer, annotators: Path) -> None:
    picture = white_at((304, 304))
    image, skeleton = generate(server, picture)
    assert skeleton.shape == (64, 64, 3) and skeleton.any()
    again, shown = generate(
        server, decoded(detect(server, "dw_openpose_full", picture).json()["images"][0]), module="none"
    )
    assert np.array_equal(skeleton, shown) and np.array_equal(image, again)
    other, elsewhere = generate(server, white_at((200, 304)))
    assert not np.array_equal(skeleton, elsewhere) and not np.array_equal(image, other)


def test_a_unit_without_its_file_names_it(server: RunningServer, annotators: Path) -> None:
    unit = {"enabled": True, "module": "animal_openpose", "model": MODEL, "image": encoded(white_at())}
    body = {**SMALL, **CHECKPOINT, "alwayson_scripts": {"controlnet": {"args": [unit]}}}
    answer = httpx.post(f"{server.url}/sdapi/v1/txt2img", json=body, timeout=120)
    assert answer.status_code == 404 and "rtmpose-m_ap10k_256.onnx" in answer.text
    assert "controlnet" in answer.text and "module" in answer.text
