from __future__ import annotations

import pytest
import torch
from torch import nn

from sdwebui_api.config.flags import parse_flags
from sdwebui_api.engine import devices
from sdwebui_api.engine.devices import Device, DevicePlan, as_out_of_memory
from sdwebui_api.errors import OutOfMemory


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
    assert plan("--xformers").attention == "sdpa"
    assert "xformers" in caplog.text


def test_out_of_memory_is_told_from_other_errors() -> None:
    assert isinstance(as_out_of_memory(torch.OutOfMemoryError("CUDA out of memory")), OutOfMemory)
    assert isinstance(as_out_of_memory(MemoryError()), OutOfMemory)
    assert as_out_of_memory(RuntimeError("shape mismatch")) is None


def test_running_translates_out_of_memory_and_frees_the_device() -> None:
    device = Device(DevicePlan(torch.device("cpu")))
    with pytest.raises(OutOfMemory), device.running(nn.Identity()):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(ValueError), device.running(nn.Identity()):
        raise ValueError
    with device.running(nn.Identity()):
        assert not torch.is_grad_enabled()


class Moves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def to(self, place: object) -> Moves:  # type: ignore[override]
        self.places.append(str(place))
        return self


def test_offloading_keeps_one_module_on_the_device() -> None:
    device = Device(DevicePlan(torch.device("cuda", 0), offload=True))
    first, second = Moves(), Moves()
    for module in (first, first, second, first):
        with device.running(module):
            pass
    device.forget()
    assert first.places == ["cuda:0", "cpu", "cuda:0", "cpu"]
    assert second.places == ["cuda:0", "cpu"]


def test_offloading_takes_guests_along_for_one_run() -> None:
    device = Device(DevicePlan(torch.device("cuda", 0), offload=True))
    host, guest = Moves(), Moves()
    for _ in range(2):
        with device.running(host), device.beside([guest, guest]):
            assert guest.places[-1] == "cuda:0"
    assert host.places == ["cuda:0"]
    assert guest.places == ["cuda:0", "cpu"] * 2
    resident = Device(DevicePlan(torch.device("cuda", 0)))
    with resident.running(host), resident.beside([guest]):
        assert len(guest.places) == 4
