"""The page as a whole, over fakes: what it is mounted on, who may see it, what extensions add, named calls."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from sdwebui_api.api.factory import create_app
from sdwebui_api.api.services import Services
from sdwebui_api.scripting.extensions import ExtensionFolder, ScriptFile
from sdwebui_api.scripting.host import ScriptHost
from sdwebui_api.webui.page import mount_page
from tests.support.fakes import fake_services


@contextmanager
def served_until_closed(services: Services) -> Iterator[tuple[str, Callable[[], object]]]:
    """The address of a real server with the page, and what lets go of its browsers."""
    app = create_app(services)
    close = mount_page(app, services)
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve([listener])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", lambda: loops[0].call_soon_threadsafe(close)
        server.should_exit = True
        thread.join(10)


@contextmanager
def served(services: Services) -> Iterator[str]:
    with served_until_closed(services) as (address, _):
        yield address


PATIENCE = 60.0
"""Seconds: the machine may have other things to do."""


def fetch(address: str, auth: tuple[str, str] | None = None) -> httpx.Response:
    return httpx.get(address, auth=auth, timeout=PATIENCE)


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def services(tmp_path_factory) -> Iterator[Services]:
    services = fake_services(tmp_path_factory.mktemp("page"))
    yield services
    services.runner.drain(5)


@pytest.fixture(scope="module")
def address(services) -> Iterator[str]:
    with served(services) as address:
        yield address


@pytest.fixture(scope="module")
def client(address) -> Client:
    return Client(address, verbose=False)


def test_the_page_is_at_the_root_and_the_api_keeps_its_routes(address):
    page = fetch(address)
    assert page.status_code == 200 and "gradio" in page.text.lower()
    assert fetch(f"{address}/sdapi/v1/samplers").json()[0]["name"] == "DPM++ 2M"
    assert "/sdapi/v1/txt2img" in fetch(f"{address}/openapi.json").json()["paths"]


def test_the_page_fetches_nothing_from_elsewhere(address):
    page = fetch(address).text
    fetched = {
        line for line in page.replace(">", ">\n").splitlines() if "http" in line and ("src=" in line or "href=" in line)
    }
    assert not {line for line in fetched if "127.0.0.1" not in line}


def test_a_program_draws_by_name(client, services):
    files, info = client.predict(
        "a red apple", steps=3, width=64, height=72, seed=5, more='{"tiling": true}', api_name="/txt2img"
    )
    assert Image.open(files[0]).size == (8, 8)
    request = services.generator.requests[-1]
    assert (request.prompt, request.steps, request.width, request.height) == ("a red apple", 3, 64, 72)
    assert request.seed == 5 and request.tiling
    assert '"job_id"' in info


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"steps": 0}, "steps"), ({"sampler_name": "nonsense"}, "nonsense"), ({"more": "[]"}, "more")],
)
def test_a_wrong_named_call_is_refused_by_its_field(client, fields, named):
    with pytest.raises(AppError, match=named):
        client.predict("x", **fields, api_name="/txt2img")


def test_only_named_calls_are_offered_to_programs(client):
    assert [name for name in client.view_api(return_format="dict")["named_endpoints"]] == ["/txt2img"]


def test_files_outside_of_gradios_cache_are_not_served(address, services, tmp_path):
    secret = Path(services.flags.data_dir) / "config.json"
    secret.write_text("{}")
    for path in (str(secret), "/etc/passwd", f"{services.flags.data_dir}/tmp/page/../../config.json"):
        assert fetch(f"{address}/gradio_api/file={path}").status_code in (403, 404)


def test_credentials_guard_the_page_too(tmp_path):
    services = fake_services(tmp_path, "--api-auth", "ann:secret")
    with served(services) as address:
        for path in ("/", "/config", "/gradio_api/info", "/assets/index.js"):
            assert fetch(address + path).status_code == 401
        assert fetch(address, auth=("ann", "secret")).status_code == 200
        config = fetch(f"{address}/config", auth=("ann", "secret")).json()
        assert config["components"]


def test_browsers_do_not_hold_up_a_server_that_closes(tmp_path):
    with (
        served_until_closed(fake_services(tmp_path)) as (address, close),
        httpx.stream("GET", f"{address}/gradio_api/heartbeat/someone", timeout=PATIENCE) as beats,
    ):
        chunks = beats.iter_bytes()
        assert b"ALIVE" in next(chunks)
        close()
        assert list(chunks) == []


def tabs_of(address: str) -> list[str]:
    components = fetch(f"{address}/config").json()["components"]
    return [one["props"].get("elem_id") for one in components if one["type"] == "tabitem"]


def test_tabs_can_be_hidden_and_extensions_bring_more(tmp_path):
    services = fake_services(tmp_path, "--always-hide-tabs", "Settings", "hidden one")
    services.scripts = host_with(tmp_path, EXTENSION)
    with served(services) as address:
        tabs = tabs_of(address)
        assert "tab_txt2img" in tabs and "tab_fine" in tabs
        assert "tab_settings" not in tabs and "tab_hidden" not in tabs and "tab_never" not in tabs
        assert fetch(f"{address}/fine/hello").json() == "hello"
        assert "tab_broken" in tabs, "a tab that cannot be built says so, the others stay"


EXTENSION = {
    "fine.py": """
from sdwebui_api.scripting.page_hooks import PageTab

def app_started(app):
    app.add_api_route("/fine/hello", lambda: "hello")

def build(page):
    import gradio as gr
    page.add(gr.Textbox(elem_id="fine_text"))

def page_tab():
    return PageTab("fine", "Fine", build)
""",
    "hidden.py": """
from sdwebui_api.scripting.page_hooks import PageTab
def page_tab():
    return PageTab("hidden", "Hidden one", lambda page: None)
""",
    "never.py": """
from sdwebui_api.scripting.page_hooks import PageTab
def page_tab():
    return PageTab("never", "Never", lambda page: None, shown=lambda flags: flags.filebrowser)
""",
    "broken.py": """
from sdwebui_api.scripting.page_hooks import PageTab
def app_started(app):
    raise ValueError("no routes")
def page_tab():
    return PageTab("broken", "Broken", lambda page: 1 / 0)
""",
}


def host_with(folder: Path, files: dict[str, str]) -> ScriptHost:
    base = folder / "extensions" / "sample"
    (base / "scripts").mkdir(parents=True)
    extension = ExtensionFolder(base)
    found = []
    for name, text in files.items():
        path = base / "scripts" / name
        path.write_text(text)
        found.append(ScriptFile(path, base, extension))
    host = ScriptHost(found, [extension])
    host.load()
    return host


def test_what_runs_in_the_browser_reads_nothing_that_stays_on_the_server(address):
    """The value of a `gr.State` never reaches a browser: JavaScript is given null in its place."""
    page = fetch(f"{address}/config").json()
    kinds = {one["id"]: one["type"] for one in page["components"]}
    local = [one for one in page["dependencies"] if one["js"] and not one["backend_fn"]]
    assert any(one["inputs"] for one in local)
    assert [one["js"] for one in local for input in one["inputs"] if kinds[input] == "state"] == []
