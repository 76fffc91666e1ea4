"""Fixtures that every room shares; a room's own stay beside its tests."""

from __future__ import annotations

import os
import sys
import zlib
from pathlib import Path

import pytest

# As `cli` does for the server: test processes and the servers they start share the machine's cores.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

GOLDEN = Path(__file__).parent / "golden"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is drawn without a seed of its own depends on the test, not on those before it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(zlib.crc32(item.nodeid.encode()))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="crash tests: 200 moments per row instead of 25 (an hour)")


@pytest.fixture(scope="session")
def golden_api() -> Path:
    """The recorded answers of A1111's endpoints."""
    return GOLDEN / "api"


@pytest.fixture(scope="session")
def golden_models() -> Path:
    """The model tree that A1111 was recorded with."""
    return GOLDEN / "models"


@pytest.fixture(scope="session")
def golden_flags(golden_models: Path) -> list[str]:
    """The command line that points a server at `golden_models`."""
    return [
        f"--models-dir={golden_models}",
        f"--embeddings-dir={golden_models / 'embeddings'}",
        f"--styles-file={golden_models / 'styles.csv'}",
    ]
