from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sdwebui_api.catalog.checkpoints import CheckpointCatalog, CheckpointFile
from sdwebui_api.catalog.vaes import VaeCatalog, VaeFile
from sdwebui_api.config.flags import Flags, parse_flags
from sdwebui_api.config.paths import Paths
from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.model import DiffusionModel

MODELS = Path(__file__).parents[1] / "golden" / "models"


def flags_of(models: Path, *more: str) -> Flags:
    words = ["--no-half", "--use-cpu", "all", "--models-dir", str(models)]
    return parse_flags([*words, "--embeddings-dir", str(models / "embeddings"), *more], {})


def checkpoints(paths: Paths) -> list[CheckpointFile]:
    catalog = CheckpointCatalog(paths.checkpoint_dirs, None)
    catalog.refresh()
    return catalog.all()


def vaes(paths: Paths) -> list[VaeFile]:
    catalog = VaeCatalog(paths.vae_dirs, paths.checkpoint_dirs, None)
    catalog.refresh()
    return catalog.all()


@pytest.fixture(scope="session")
def golden_paths() -> Paths:
    return Paths.from_flags(flags_of(MODELS))


@pytest.fixture(scope="session")
def golden_engine(golden_paths: Paths) -> Engine:
    return Engine(flags_of(MODELS), golden_paths)


@pytest.fixture(scope="session")
def tiny(golden_engine: Engine, golden_paths: Paths) -> Iterator[DiffusionModel]:
    """The golden checkpoint in float32."""
    with golden_engine.lease(checkpoints(golden_paths)[0]) as model:
        yield model
