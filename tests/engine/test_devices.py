from __future__ import annotations

import pytest
import torch
from torch import nn

from sdwebui_api.config.flags import parse_flags
from sdwebui_api.engine import devices
from sdwebui_api.engine.devices import Device, DevicePlan, as_out_of_memory
from sdwebui_api.engine.visits import BlockwiseVisit, ModuleMoves
from sdwebui_api.errors import OutOfMemory

CUDA = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "cpu_multiplies_bf16", lambda: True)


def plan(*words: str) -> DevicePlan:
    return DevicePlan.from_flags(parse_flags(words, {}))


def dtypes(plan: DevicePlan) -> tuple[torch.dtype, ...]:
    return plan.unet_dtype, plan.text_dtype, plan.vae_dtype


def test_a_cpu_with_bf16_uses_it() -> None:
    assert dtypes(plan()) == (torch.bfloat16,) * 3
    assert plan().device == torch.device("cpu")


def test_a_cpu_without_bf16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cpu_multiplies_bf16", lambda: False)
    assert dtypes(plan()) == (torch.float32,) * 3


@pytest.mark.parametrize("words", [["--no-half"], ["--precision", "full"]])
def test_full_precision(words: list[str]) -> None:
    assert dtypes(plan(*words)) == (torch.float32,) * 3


def test_the_vae_alone_in_full_precision() -> None:
    assert dtypes(plan("--no-half-vae")) == (torch.bfloat16, torch.bfloat16, torch.float32)


def test_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert plan().device == torch.device("cuda", 0)
    assert dtypes(plan()) == (torch.float16,) * 3
    assert plan("--device-id", "1").device == torch.device("cuda", 1)
    assert plan("--use-cpu", "all").device == torch.device("cpu")
    assert plan("--use-cpu", "interrogate").device.type == "cuda"
    assert plan("--medvram").offload and plan("--medvram").storage == torch.device("cpu")


def test_offloading_makes_no_sense_on_a_cpu() -> None:
    assert not plan("--lowvram").offload


def test_xformers_falls_back_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert plan("--xformers").attention == plan().attention
    assert "xformers" in caplog.text


def test_attention_by_products_is_for_bf16_on_a_cpu() -> None:
    assert plan().attention == "products"
    assert plan("--no-half").attention == plan("--opt-sdp-attention").attention == "sdpa"


def test_out_of_memory_is_told_from_other_errors() -> None:
    assert isinstance(as_out_of_memory(torch.OutOfMemoryError("CUDA out of memory")), OutOfMemory)
    assert isinstance(as_out_of_memory(MemoryError()), OutOfMemory)
    for text in ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"):
        assert isinstance(as_out_of_memory(RuntimeError(text)), OutOfMemory)
    assert as_out_of_memory(RuntimeError("shape mismatch")) is None


def test_running_translates_out_of_memory_and_frees_the_device() -> None:
    device = Device(DevicePlan(torch.device("cpu")))
    with pytest.raises(OutOfMemory), device.running(nn.Identity()):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(ValueError), device.running(nn.Identity()):
        raise ValueError
    with device.running(nn.Identity()):
        assert not torch.is_grad_enabled()


CPU = torch.device("cpu")


def places(*modules: nn.Module) -> list[int]:
    return [tensor.data_ptr() for module in modules for tensor in (*module.parameters(), *module.buffers())]


def test_offloading_keeps_one_module_on_the_device() -> None:
    device = Device(DevicePlan(CPU, offload=True))
    first, second = nn.Linear(8, 8), nn.BatchNorm2d(8)
    homes, weights = places(first, second), first.weight.detach().clone()
    with device.running(first):
        assert not set(places(first)) & set(homes) and set(places(second)) < set(homes)
        assert torch.equal(first.weight, weights)
        away = places(first)
    with device.running(first):
        assert places(first) == away  # it has stayed
    with device.running(second):
        assert places(first) == homes[:2] and not set(places(second)) & set(homes)
    device.forget()
    assert places(first, second) == homes


def test_a_visitor_that_changed_its_precision_goes_home_with_it() -> None:
    device, module = Device(DevicePlan(CPU, offload=True)), nn.Linear(4, 4).half()
    with device.running(module):
        module.float()
    device.forget()
    assert module.weight.dtype == torch.float32


def test_guests_leave_after_one_run() -> None:
    device = Device(DevicePlan(CPU, offload=True))
    host, guest = nn.Linear(4, 4), nn.Linear(4, 4)
    homes = places(guest)
    with device.running(host), device.beside([guest, guest]):
        assert places(guest) != homes
    assert places(guest) == homes
    resident = Device(DevicePlan(CPU))
    with resident.running(host), resident.beside([guest]):
        assert places(guest) == homes


class Nested(nn.Module):
    """Two levels of lists, as in a UNet: a block of two layers, one of one, and something between."""

    def __init__(self) -> None:
        super().__init__()
        inner = nn.Module()
        inner.layers = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])
        self.between = nn.Linear(16, 4)
        self.blocks = nn.ModuleList([inner, nn.Linear(16, 16)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (*self.blocks[0].layers, self.blocks[1]):
            x = layer(x)
        return self.between(x)


def test_lowvram_brings_one_block_at_a_time() -> None:
    module, x = Nested(), torch.ones(1, 16)
    homes, expected = places(module), module(x).detach()
    visit = BlockwiseVisit(module, CPU)
    with torch.inference_mode():
        assert torch.equal(module(x), expected)
    assert visit.largest == (16 * 16 + 16 + 16 * 4 + 4) * 4  # a block and what lies between, of four times as much
    visit.end()
    assert places(module) == homes
    module(x)
    assert places(module) == homes  # no hook is left


def test_a_block_that_fails_goes_home() -> None:
    module = Nested()
    homes = places(module)
    visit = BlockwiseVisit(module, CPU)
    with pytest.raises(RuntimeError):
        module(torch.ones(1, 3))
    visit.end()
    assert places(module) == homes


@pytest.mark.parametrize(("words", "families"), [(["--medvram"], {"sd1", "sdxl"}), (["--medvram-sdxl"], {"sdxl"})])
def test_who_rests_in_ram(monkeypatch: pytest.MonkeyPatch, words: list[str], families: set[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert {family for family in ("sd1", "sdxl") if plan(*words).rests_in_ram(family)} == families
    assert plan("--lowvram").blockwise and not plan(*words).blockwise


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="no CUDA device")
def test_a_visit_to_a_gpu() -> None:
    module = Nested()
    visit = BlockwiseVisit(module, torch.device("cuda", 0))
    assert module(torch.ones(1, 16, device="cuda")).device.type == "cuda"
    visit.end()
    assert {parameter.device.type for parameter in module.parameters()} == {"cpu"}


def test_a_module_that_rested_is_the_same() -> None:
    """In channels-last and plain layout; on the CPU the two places are both RAM, the copies are real."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(4, 4))
    module[0].to(memory_format=torch.channels_last)
    homes, values = places(module), [tensor.clone() for tensor in module.state_dict().values()]
    moves = ModuleMoves(module, CPU)
    with torch.inference_mode():
        moves.rest()
    resting = places(module)
    assert not set(resting) & set(homes)
    moves.rest()
    assert places(module) == resting
    moves.wake()
    assert all(map(torch.equal, module.state_dict().values(), values))
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last) and not module[0].weight.is_inference()
