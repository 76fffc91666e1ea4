"""One server with `--cluster` and its page, and two users who come by a trusted proxy's header."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from sdwebui_api.api.services import Services
from sdwebui_api.webui.page import mount_page
from tests.file_browser.conftest import services_with_browser
from tests.support.server import run_in_thread

HEADER = "X-User"
PICTURE = {"prompt": "a", "steps": 2, "width": 64, "height": 64}
UPLOADED = b"ann's own picture"


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)
    return found


@dataclass
class Cluster:
    """`ann` and `bob` call as who they are, `nobody` without a name."""

    url: str
    data: Path
    services: Services
    ann: httpx.Client
    bob: httpx.Client
    nobody: httpx.Client
    names: dict[str, str] = field(default_factory=dict)
    """What Ann has: job, session, event, upload (a file in gradio's cache), result (a file she has saved)."""

    def home(self, user: str) -> Path:
        return self.data / "users" / user


@pytest.fixture(scope="package")
def page_folder() -> Iterator[None]:
    """Whatever pages this process has made before: the first one settles for Gradio where all keep their files."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("GRADIO_TEMP_DIR", raising=False)
        yield


@pytest.fixture(scope="package")
def cluster(page_folder: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    data = tmp_path_factory.mktemp("cluster")
    services = services_with_browser(
        data, "--filebrowser", "--cluster", "--user-header", HEADER, "--trusted-proxies", "127.0.0.1/32",
    )  # fmt: skip
    with (
        run_in_thread(services, mount_page) as url,
        httpx.Client(base_url=url, headers={HEADER: "ann"}, timeout=60) as ann,
        httpx.Client(base_url=url, headers={HEADER: "bob"}, timeout=60) as bob,
        httpx.Client(base_url=url, timeout=60) as nobody,
    ):
        found = Cluster(url, data, services, ann, bob, nobody)
        _settle_in(found)
        yield found


def _settle_in(cluster: Cluster) -> None:
    """Ann works: she has files, settings, results, a session of the page, and at last a job that goes on."""
    ann, names = cluster.ann, cluster.names
    assert ann.get("/sdapi/v1/options").status_code == 200  # her folder is there now
    models = cluster.home("ann") / "model_store"
    (models / "Lora" / "anns-lora.safetensors").write_bytes(b"x")
    Image.new("RGB", (8, 8)).save(models / "Lora" / "anns-lora.preview.png")
    (models / "Stable-diffusion" / "anns-model.safetensors").write_bytes(b"x")
    (models / "ControlNet" / "anns-control.safetensors").write_bytes(b"x")
    (cluster.home("ann") / "styles.csv").write_text("name,prompt,negative_prompt\nanns-style,p,n\n")
    (cluster.home("ann") / "outputs" / "secret.txt").write_text("secret")
    for path in ("refresh-loras", "refresh-checkpoints"):
        assert ann.post(f"/sdapi/v1/{path}").status_code == 200
    cluster.services.views("ann").catalog.styles.refresh()
    assert ann.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 2}).status_code == 200
    saved = ann.post("/sdapi/v1/txt2img", json={**PICTURE, "alwayson_scripts": {"save_dir": "mine"}})
    names["result"] = saved.json()["parameters"]["image_url"]
    uploaded = ann.post("/gradio_api/upload", params={"upload_id": "anns-upload"}, files={"files": ("a.png", UPLOADED)})
    names["upload"] = uploaded.json()[0]
    names["session"] = "annssession"
    cluster.services.generator.gate.clear()  # type: ignore[attr-defined]
    call = ann.post(
        "/gradio_api/call/txt2img", json={"data": ["a", "", 2, 64, 64, 7, -1, "Euler", "Automatic", 1, 1, "{}"]}
    )
    names["event"] = call.json()["event_id"]
    drawn = [{"background": None, "layers": [], "composite": None, "id": "drawing"}]
    ann.post("/gradio_api/queue/join", json={"data": drawn, "fn_index": 0, "session_hash": names["session"]})
    job = wait_for(lambda: [one for one in ann.get("/sdapi/v1/jobs").json() if one["state"] == "running"])
    names["job"] = job[0]["id"]
