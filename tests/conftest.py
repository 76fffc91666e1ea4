"""Fixtures that every room shares; a room's own stay beside its tests."""

from __future__ import annotations

import os
import sys
import zlib
from collections import Counter
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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Among several processes: files with slow tests first, then those with many, so that all end at the same time.

    xdist by itself (without `--no-loadscope-reorder`) begins with those that have many, and the longest tests of all,
    each nearly alone in its file, come last: one process waits for the other.
    """
    if not hasattr(config, "workerinput"):
        return
    tests = Counter(item.path for item in items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, -tests[item.path]))  # stable: a file's tests stay as they are


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
