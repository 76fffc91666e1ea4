"""One real server on the golden models, with the extensions of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import RunningServer, run_golden_server

EXTENSIONS = Path(__file__).parent / "extensions"


@pytest.fixture(scope="session")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, Path]]:
    """(server, its data folder)"""
    data = tmp_path_factory.mktemp("extended")
    shutil.copytree(EXTENSIONS, data / "extensions")
    with run_golden_server(data, "--max-step-batch", "4") as server:
        yield server, data
