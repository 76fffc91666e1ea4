"""Forty ways to send nonsense: each gets a 4xx that names the field, and the server stays well."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from typing import Any

import psutil
import pytest
import requests
from PIL import Image

from tests.support.server import RunningServer

GOOD: dict[str, Any] = {"prompt": "a red apple", "steps": 1, "width": 64, "height": 64, "seed": 1}
MEMORY_SLACK = 150 * 2**20
"""Bytes that the process may grow by over all of the requests below."""


def png(size: tuple[int, int] = (16, 16)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size).save(data, "PNG")
    return data.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def bomb(width: int = 10000, height: int = 10000) -> bytes:
    """A PNG of 100 megapixels in a few hundred kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    compressor = zlib.compressobj(9)
    row = b"\0" * (1 + 3 * width)
    body = b"".join(compressor.compress(row) for _ in range(height)) + compressor.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


TXT2IMG: list[tuple[str, dict[str, Any], str]] = [
    ("steps is a word", {"steps": "abc"}, "steps"),
    ("steps is a list", {"steps": [1]}, "steps"),
    ("no steps", {"steps": 0}, "steps"),
    ("negative steps", {"steps": -5}, "steps"),
    ("a million steps", {"steps": 1_000_000}, "steps"),
    ("width is zero", {"width": 0}, "width"),
    ("negative height", {"height": -64}, "height"),
    ("enormous width", {"width": 1_000_000}, "width"),
    ("NaN guidance", {"cfg_scale": float("nan")}, "cfg_scale"),
    ("infinite guidance", {"cfg_scale": float("inf")}, "cfg_scale"),
    ("NaN eta", {"eta": float("nan")}, "eta"),
    ("unknown sampler", {"sampler_name": "no such sampler"}, "sampler_name"),
    ("unknown sampler by index", {"sampler_index": "no such sampler"}, "sampler_index"),
    ("unknown schedule", {"scheduler": "no such schedule"}, "scheduler"),
    ("unknown checkpoint", {"override_settings": {"sd_model_checkpoint": "no-such"}}, "sd_model_checkpoint"),
    ("unknown VAE", {"override_settings": {"sd_vae": "no-such"}}, "sd_vae"),
    (
        "path as checkpoint",
        {"override_settings": {"sd_model_checkpoint": "../../../etc/passwd"}},
        "sd_model_checkpoint",
    ),
    ("option of a wrong type", {"override_settings": {"CLIP_stop_at_last_layers": "abc"}}, "CLIP_stop_at_last_layers"),
    ("option out of range", {"override_settings": {"CLIP_stop_at_last_layers": 99}}, "CLIP_stop_at_last_layers"),
    ("overrides are a list", {"override_settings": [1, 2]}, "override_settings"),
    ("prompt is a list", {"prompt": ["a"]}, "prompt"),
    ("prompt of 10 MB", {"prompt": "apple " * 1_750_000}, "prompt"),
    ("prompt of 20000 brackets", {"prompt": "[" * 20000}, "prompt"),
    ("unknown refiner", {"refiner_checkpoint": "no-such", "refiner_switch_at": 0.8}, "refiner_checkpoint"),
    ("no image in a batch", {"batch_size": 0}, "batch_size"),
    ("a huge batch", {"batch_size": 100_000}, "batch_size"),
    ("negative repetitions", {"n_iter": -1}, "n_iter"),
    ("unknown script", {"script_name": "no such script"}, "script_name"),
    ("unknown always-on script", {"alwayson_scripts": {"no such script": {"args": []}}}, "alwayson_scripts"),
    ("always-on scripts are a list", {"alwayson_scripts": [1]}, "alwayson_scripts"),
    ("unknown hires upscaler", {"enable_hr": True, "hr_upscaler": "no such", "denoising_strength": 0.5}, "hr_upscaler"),
    ("hires scale of zero", {"enable_hr": True, "hr_scale": 0, "denoising_strength": 0.5}, "hr_scale"),
    ("denoising above one", {"enable_hr": True, "denoising_strength": 7}, "denoising_strength"),
    ("seed is an object", {"seed": {}}, "seed"),
    ("styles are a number", {"styles": 3}, "styles"),
]

IMG2IMG: list[tuple[str, dict[str, Any], str]] = [
    ("no image", {}, "init"),
    ("broken base64", {"init_images": ["@@@@"]}, "init_images"),
    ("base64 of text", {"init_images": [text(b"hello there")]}, "init_images"),
    ("truncated PNG", {"init_images": [text(png((64, 64))[:60])]}, "init_images"),
    ("pixel bomb", {"init_images": [text(bomb())]}, "init_images"),
    ("image is a number", {"init_images": [3]}, "init_images"),
    ("broken mask", {"init_images": [text(png())], "mask": "@@@@"}, "mask"),
    ("resize mode 9", {"init_images": [text(png())], "resize_mode": 9}, "resize_mode"),
    ("fill mode 9", {"init_images": [text(png())], "mask": text(png()), "inpainting_fill": 9}, "inpainting_fill"),
    ("NaN denoising", {"init_images": [text(png())], "denoising_strength": float("nan")}, "denoising_strength"),
]

RAW: list[tuple[str, bytes]] = [
    ("not JSON", b"not json"),
    ("truncated JSON", b'{"prompt": '),
    ("a list", b"[]"),
    ("a number", b"3"),
    ("nothing", b""),
    ("deep nesting", b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ("not UTF-8", b'{"prompt": "\xff\xfe"}'),
]


def post(server: RunningServer, path: str, body: dict[str, Any]) -> requests.Response:
    data = json.dumps(body).encode()
    return requests.post(server.url + path, data=data, headers={"Content-Type": "application/json"}, timeout=60)


def assert_refused(response: requests.Response, field: str) -> None:
    assert 400 <= response.status_code < 500, (response.status_code, response.text[:500])
    answer = response.json()
    assert {"error", "detail", "body", "errors"} <= answer.keys()
    assert field in json.dumps(answer)


@pytest.mark.parametrize(("body", "field"), [row[1:] for row in TXT2IMG], ids=[row[0] for row in TXT2IMG])
def test_txt2img_refuses(server: RunningServer, body: dict[str, Any], field: str) -> None:
    assert_refused(post(server, "/sdapi/v1/txt2img", GOOD | body), field)


@pytest.mark.parametrize(("body", "field"), [row[1:] for row in IMG2IMG], ids=[row[0] for row in IMG2IMG])
def test_img2img_refuses(server: RunningServer, body: dict[str, Any], field: str) -> None:
    answer = post(server, "/sdapi/v1/img2img", GOOD | body)
    assert_refused(answer, field if field != "init" else "Init image not found")


@pytest.mark.parametrize("data", [row[1] for row in RAW], ids=[row[0] for row in RAW])
def test_a_body_that_is_no_object_is_refused(server: RunningServer, data: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = requests.post(f"{server.url}/sdapi/v1/txt2img", data=data, headers=headers, timeout=60)
    assert_refused(response, "body" if response.status_code == 422 else "")


def test_memory_stays_flat_and_the_server_serves(server: RunningServer) -> None:
    """All of the above three times over; then a picture comes as ever."""
    before_answer = post(server, "/sdapi/v1/txt2img", GOOD)
    assert before_answer.status_code == 200

    def all_of_them() -> None:
        for _, body, _ in TXT2IMG:
            post(server, "/sdapi/v1/txt2img", GOOD | body)
        for _, body, _ in IMG2IMG:
            post(server, "/sdapi/v1/img2img", GOOD | body)

    all_of_them()
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    for _ in range(3):
        all_of_them()
    assert process.memory_info().rss - before < MEMORY_SLACK
    after_answer = post(server, "/sdapi/v1/txt2img", GOOD)
    assert after_answer.json()["images"] == before_answer.json()["images"]
