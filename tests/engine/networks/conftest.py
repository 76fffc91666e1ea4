from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sdwebui_api.catalog.checkpoints import CheckpointFile
from sdwebui_api.catalog.networks import HypernetworkFile, LoraFile
from sdwebui_api.config.paths import Paths
from sdwebui_api.engine.engine import Engine
from tests.engine.conftest import MODELS, checkpoints, flags_of

STYLE = LoraFile(MODELS / "Lora" / "tiny-style.safetensors", "tiny-style")
CONV = LoraFile(MODELS / "Lora" / "tiny-conv.safetensors", "tiny-conv")
HYPER = HypernetworkFile(MODELS / "hypernetworks" / "tiny-hyper.pt", "tiny-hyper")

WriteLora = Callable[..., LoraFile]


@pytest.fixture(scope="module")
def engine(golden_paths: Paths) -> Iterator[Engine]:
    yield Engine(flags_of(MODELS, "--max-step-batch", "1"), golden_paths)


@pytest.fixture(scope="session")
def checkpoint(golden_paths: Paths) -> CheckpointFile:
    return checkpoints(golden_paths)[0]


@pytest.fixture
def write_lora(tmp_path: Path) -> WriteLora:
    def write(tensors: dict[str, Tensor], name: str = "made", metadata: dict[str, str] | None = None) -> LoraFile:
        path = tmp_path / f"{name}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata=metadata)
        status = path.stat()
        return LoraFile(path, name, status.st_size, status.st_mtime_ns)

    return write


def rank_one(layer: str, out: int, into: int, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        f"{layer}.lora_up.weight": torch.randn((out, 1), generator=random),
        f"{layer}.lora_down.weight": torch.randn((1, into), generator=random),
    }
