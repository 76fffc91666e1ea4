"""--blade: compiled in the background, the same predictions, and never a failed job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from sdwebui_api.config.flags import parse_flags
from sdwebui_api.engine import compiled
from sdwebui_api.engine.batcher import Evaluation
from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.model import UNet


def network(device: str = "cpu") -> UNet:
    torch.manual_seed(0)
    module = UNet2DConditionModel(
        block_out_channels=(32,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=16,
        attention_head_dim=8,
    )
    module = module.requires_grad_(False).eval().to(device)
    plan = DevicePlan(torch.device(device), compiled=True)
    return UNet("key", module, torch.float32, Device(plan), compiled=True)


def evaluation(side: int = 8, tiling: bool = False) -> Evaluation:
    torch.manual_seed(1)
    return Evaluation(torch.randn(2, 4, side, side), torch.tensor([500.0, 3.0]), torch.randn(2, 7, 16), tiling=tiling)


def predict(unet: UNet, asked: Evaluation) -> torch.Tensor:
    with unet.holding():
        return unet.forward(asked)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 900
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def counted(unet: UNet) -> list[int]:
    """One entry per forward pass of the network itself."""
    calls: list[int] = []
    unet.module.conv_in.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_the_network_serves_until_its_translation_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on = threading.Event()

    def twin(module: UNet2DConditionModel, _device: torch.device) -> object:
        may_go_on.wait(300)
        return lambda sample, **_: (sample + 1,)

    monkeypatch.setattr(compiled, "compiled_twin", twin)
    unet = network()
    monkeypatch.setattr(unet._compiled, "_held", threading.Lock)  # the device stays free for the test
    expected = network().module(**inputs(evaluation()), return_dict=False)[0]
    assert torch.allclose(predict(unet, evaluation()), expected, atol=1e-5)
    may_go_on.set()
    wait_for(lambda: unet._compiled is not None and unet._compiled.ready == 1)
    assert torch.allclose(predict(unet, evaluation()), evaluation().x + 1)
    tiled = predict(unet, evaluation(tiling=True))
    assert not torch.allclose(tiled, evaluation().x + 1)


def inputs(asked: Evaluation) -> dict[str, torch.Tensor]:
    return {"sample": asked.x, "timestep": asked.t, "encoder_hidden_states": asked.context}


def test_a_compiler_that_fails_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no C++ compiler\ntraceback")

    monkeypatch.setattr(compiled, "compiled_twin", fail)
    unet = network()
    first = predict(unet, evaluation())
    wait_for(lambda: "going on without compilation: no C++ compiler" in caplog.text)
    assert torch.equal(predict(unet, evaluation()), first)


@pytest.mark.slow
def test_compiled_predictions_are_those_of_the_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    unet = network()
    expected = predict(unet, evaluation())
    wait_for(lambda: unet._compiled is not None and (unet._compiled.ready == 1 or "going on without" in caplog.text))
    assert "going on without" not in caplog.text
    calls = counted(unet)
    assert torch.allclose(predict(unet, evaluation()), expected, atol=1e-4)
    assert not calls


def test_the_flag_and_what_it_does_not_reach() -> None:
    assert DevicePlan.from_flags(parse_flags(["--blade"], {})).compiled
    assert not DevicePlan.from_flags(parse_flags([], {})).compiled


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_replayed_predictions_are_those_of_the_network() -> None:
    unet = network("cuda")
    expected = predict(unet, evaluation())
    wait_for(lambda: unet._compiled is not None and unet._compiled.ready == 1)
    calls = counted(unet)
    for _ in range(2):  # what one replay answers must not change with the next
        found = predict(unet, evaluation())
    other = predict(unet, Evaluation(evaluation().x * 2, evaluation().t, evaluation().context))
    assert not calls
    assert torch.allclose(found, expected, atol=1e-3)
    assert not torch.allclose(other, expected, atol=1e-3)
