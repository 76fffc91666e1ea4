"""Maps by networks over HTTP: files put into a running server's folder, in the layout they are published in."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from tests.control.annotator_files import drawn
from tests.control.test_annotators import GENERATOR, published, small
from tests.e2e.test_controlnet import MASK, PICTURE
from tests.support.server import RunningServer

MISSING = [
    ("mlsd", "mlsd_large_512_fp32.pth"), ("normal_map", "config.json"), ("depth_leres++", "res101.pth"),
    ("mobile_sam", "mobile_sam.pt"), ("lineart_anime_denoise", "erika.pth"), ("oneformer_coco", "config.json"),
]  # fmt: skip


@pytest.fixture(scope="module")
def weights(server: RunningServer) -> Path:
    """As the extension puts them: below its own folder."""
    folder = server.data_dir / "extensions" / "sd-webui-controlnet" / "annotator" / "downloads"
    files: dict[str, Any] = {
        "TEED/7_model.pth": drawn(published("teed")),  # tiny as it is
        "normal_bae/scannet.pt": {"model": small("normal_bae")},
        "lama/ControlNetLama.pth": {"state_dict": {f"{GENERATOR}{name}": v for name, v in small("lama").items()}},
    }
    for place, content in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, folder / place)
    (folder / "TEED" / "MTEED.pth").write_bytes(b"no network")
    return folder


def detect(server: RunningServer, module: str, **fields: Any) -> httpx.Response:
    body = {"controlnet_module": module, "controlnet_input_images": [PICTURE], "controlnet_processor_res": 64, **fields}
    return httpx.post(f"{server.url}/controlnet/detect", json=body, timeout=120)


@pytest.mark.parametrize("module", ["softedge_teed", "normal_bae"])
@pytest.mark.parametrize("low_vram", [False, True])
def test_maps(server: RunningServer, weights: Path, module: str, low_vram: bool) -> None:
    answer = detect(server, module, low_vram=low_vram)
    assert answer.status_code == 200, answer.text[:500]
    (text,) = answer.json()["images"]
    assert Image.open(io.BytesIO(base64.b64decode(text))).size == (96, 64)


def test_lama(server: RunningServer, weights: Path) -> None:
    answer = detect(server, "inpaint_only+lama", controlnet_masks=[MASK])
    assert answer.status_code == 200 and len(answer.json()["images"]) == 1


@pytest.mark.parametrize(("module", "file"), MISSING)
def test_missing_files(server: RunningServer, module: str, file: str) -> None:
    answer = detect(server, module)
    assert answer.status_code == 404 and file in answer.text and "annotators" in answer.text


def test_a_broken_file(server: RunningServer, weights: Path) -> None:
    answer = detect(server, "softedge_anyline")
    assert 400 <= answer.status_code < 500 and "MTEED.pth" in answer.text


@pytest.mark.parametrize("module", ["clip_vision", "ip-adapter_clip_sdxl", "revision_clipvision"])
def test_what_makes_no_picture(server: RunningServer, module: str) -> None:
    assert detect(server, module).status_code == 422
