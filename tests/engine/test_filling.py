"""How weights get into memory: their values, and how much memory that takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sdwebui_api.engine import mapped
from sdwebui_api.engine.filling import Weights
from sdwebui_api.engine.loading import OpenCheckpoint
from sdwebui_api.engine.mapped import MappedReader
from sdwebui_api.engine.reading import read_tensors
from sdwebui_api.errors import UnusableModel
from tests.engine.ldm_factory import Size, checkpoint

CPU = torch.device("cpu")

MEASURE = """
import sys, torch, diffusers, transformers, psutil
from diffusers import UNet2DConditionModel
from pathlib import Path
from sdwebui_api.engine.filling import Weights
from sdwebui_api.engine.loading import OpenCheckpoint

def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

def load(path):
    opened = OpenCheckpoint(Path(path), None)
    return opened.load_unet(Weights(torch.bfloat16, torch.device("cpu"), channels_last=True))

small, *large = sys.argv[1:]
load(small)  # what loading needs once: code, threads
for path in large:
    open("/proc/self/clear_refs", "w").write("5")  # the high-water mark begins anew
    before = status("VmRSS:")
    unet = load(path)
    print((status("VmHWM:") - before) / sum(p.nbytes for p in unet.parameters()))
    del unet
"""


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return checkpoint(Size(vocabulary=512), torch.float16)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_at_its_peak_loading_takes_little_more_than_the_weights(tmp_path: Path) -> None:
    small, large, pickled = (tmp_path / name for name in ("small.safetensors", "large.safetensors", "large.ckpt"))
    save_file(checkpoint(Size(vocabulary=512), torch.float16), str(small))
    tensors = checkpoint(Size(channels=256, mult=(1, 2, 2), vocabulary=512), torch.float16)
    save_file(tensors, str(large))
    torch.save(tensors, pickled)
    files = [str(path) for path in (small, large, pickled)]
    done = subprocess.run([sys.executable, "-c", MEASURE, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ratios = [float(line) for line in done.stdout.split()]
    assert len(ratios) == 2 and max(ratios) < 1.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_precision_and_layout_gets_the_values(
    tmp_path: Path, tensors: dict[str, Tensor], dtype: torch.dtype, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "CHUNK", 1000)  # so that even small tensors come in pieces
    save_file(tensors, str(tmp_path / "model.safetensors"))
    vae = OpenCheckpoint(tmp_path / "model.safetensors", None).load_vae(Weights(dtype, CPU, channels_last))
    for ours, theirs in (("decoder.conv_in", "decoder.conv_in"), ("decoder.conv_norm_out", "decoder.norm_out")):
        weight = vae.get_parameter(f"{ours}.weight")
        assert torch.equal(weight, tensors[f"first_stage_model.{theirs}.weight"].to(dtype))
        if weight.ndim == 4:
            assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_a_file_that_is_replaced_while_it_is_read_still_gives_its_own_values(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.full((1000,), 1.0)}, str(path))
    source = read_tensors(path)["x"]
    save_file({"x": torch.full((1000,), 2.0)}, str(tmp_path / "b.safetensors"))
    (tmp_path / "b.safetensors").replace(path)
    target = torch.empty(1000)
    with MappedReader(CPU) as reader:
        reader.copy(source, target)
    assert bool((target == 1.0).all())


def test_a_file_that_was_cut_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(2**20)}, str(path))
    source = read_tensors(path)["x"]
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(UnusableModel, match="shorter"), MappedReader(CPU) as reader:
        reader.copy(source, torch.empty(2**20))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_loaded_file_is_not_counted_as_memory(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tensors, str(path))
    held = read_tensors(path)
    assert all(bool(tensor.isfinite().all()) for tensor in held.values())
    assert resident(path) > 0
    with MappedReader(CPU) as reader:
        for tensor in held.values():
            reader.copy(tensor, torch.empty_like(tensor))
    assert resident(path) == 0
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in held.items())


def resident(path: Path) -> int:
    """Kilobytes of the file that count as this process's."""
    found, mine = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and ":" not in words[0]:
            mine = words[-1] == str(path)
        elif mine and words[0] == "Rss:":
            found += int(words[1])
    return found
