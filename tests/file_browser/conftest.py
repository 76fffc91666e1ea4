"""A server with `--filebrowser` over a fake generator, on a data directory with something in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from sdwebui_api.api.services import Services
from sdwebui_api.scripting.extensions import ExtensionFolder, script_files
from sdwebui_api.scripting.host import ScriptHost
from sdwebui_api.scripting.loading import on_import_path
from tests.support.fakes import fake_services
from tests.support.server import run_in_thread

EXTENSION = Path(__file__).resolve().parents[2] / "extensions" / "file_browser"

with on_import_path(EXTENSION):  # as the server does, and no longer
    import file_browser  # noqa: F401


def services_with_browser(data: Path, *flags: str) -> Services:
    checkpoints = data / "models" / "Stable-diffusion"
    services = fake_services(data, "--ckpt-dir", str(checkpoints), *flags)
    extension = ExtensionFolder(EXTENSION, builtin=True)
    services.scripts = ScriptHost(script_files([], [extension]), [extension])
    services.scripts.load()
    assert services.scripts.failures == {}
    return services


def fill(home: Path) -> Path:
    """The data directory, with secrets in it and beside it, and links of every kind."""
    data = home / "data"
    for folder in ("models/Stable-diffusion", "outputs/deep", "mine", "extensions/theirs", "cache", "models/.hidden"):
        (data / folder).mkdir(parents=True)
    for secret in ("config.json", "queue.sqlite3", "models/tokens.txt", "models/.hidden/key", "extensions/x.py"):
        (data / secret).write_text("secret")
    (home / "outside.txt").write_text("secret")
    (data / "outputs" / "a.txt").write_text("0123456789")
    (data / "outputs" / "out").symlink_to(home)
    (data / "outputs" / "out.txt").symlink_to(home / "outside.txt")
    (data / "outputs" / "code").symlink_to(data / "extensions")
    (data / "outputs" / "settings.txt").symlink_to(data / "config.json")
    (data / "outputs" / "inner.txt").symlink_to(data / "outputs" / "a.txt")
    (data / "elsewhere").symlink_to(home)
    return data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return fill(tmp_path)


@contextmanager
def serve(data: Path) -> Iterator[httpx.Client]:
    services = services_with_browser(data, "--filebrowser", "--token-file", str(data / "models" / "tokens.txt"))
    headers = {"Authorization": "Bearer secret"}
    with (
        run_in_thread(services) as url,
        httpx.Client(base_url=f"{url}/file_browser/v1/", headers=headers, timeout=60) as client,
    ):
        yield client


@pytest.fixture
def client(data: Path) -> Iterator[httpx.Client]:
    with serve(data) as client:
        yield client


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Path]]:
    """(client, data): one server for all that must change nothing."""
    data = fill(tmp_path_factory.mktemp("attacked"))
    with serve(data) as client:
        yield client, data
